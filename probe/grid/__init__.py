"""The sweep grid: head specs, layers and rates expand to cells, and regimes say what the cells are trained on.

A regime is full data or one low-shot subset, with its schedule; cells of one head and regime form a group.
"""
