"""A run's folder: the results of its cells, their trained heads, their shared settings, and the selected cells.

Results are written after every pass, so a stopped fit can continue.
"""
