"""One training step of a group: the stacked head, its losses, its optimizer and its metrics.

Cells of a group share batches and nothing else.
"""
