"""What both stages share and no stage owns: the device and its precision.

Below `extract` and `probe`, above nothing but `errors`.
"""
