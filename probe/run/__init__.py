"""A run's folder: the results of its cells, their trained heads, the settings they share, and which cell is selected.

Results are written after every pass, so that a stopped fit continues.
"""
