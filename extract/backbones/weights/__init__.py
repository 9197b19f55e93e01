"""Weights of one's own, from a file into a backbone.

`files.py` reads a file, `sets.py` finds the backbone's part of it, `kinds.py` refuses what is no weight, and
`position_tables.py` brings tables to the backbone's grid. `loading.py` puts them together, and says what was done.
"""
