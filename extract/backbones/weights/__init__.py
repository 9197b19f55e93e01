"""Loading of the user's own weights from a file into a backbone.

`files.py` reads a file. `sets.py` finds the backbone's part of it. `kinds.py` refuses tensors that cannot be weights.
`position_tables.py` resamples tables to the backbone's grid. `loading.py` combines these steps and reports the result.
`folders.py` looks at folders of weights that other libraries load.
"""
