"""The published learning-rate schedule: linear warm-up, then half a cosine to zero."""

from math import cos, pi


def lr_factor(epoch: float, epochs: int, warmup_epochs: float) -> float:
    """Return the factor on the peak learning rate.

    Args:
        epoch: epochs done, with fractions: 2.5 is the middle of the third epoch.
        epochs: length of the whole training.
        warmup_epochs: length of the linear rise from 0.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    return 0.5 * (1 + cos(pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))
