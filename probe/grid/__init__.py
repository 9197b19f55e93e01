"""The sweep grid: head specs, layers and rates expand to cells, and a regime gives each cell its training images.

A regime is full data or one low-shot subset, with its schedule. Cells of one head and regime form a group.
"""
