"""Which rows a fit reads, in which order, and how they become batches of tensors on the training device.

Rows are read from disk, from memory or from the GPU; the batches are the same.
"""
