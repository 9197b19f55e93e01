"""The loop of a fit: read batches, train the groups of a pass, score them, keep checkpoints, write results.

Solvers fit their heads here too, on the same streams.
"""
