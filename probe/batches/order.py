"""The order of training rows: sequential on disk, shuffled in memory."""

import numpy as np

from ...store.order import RowNumbers, permutation

WINDOW_BLOCKS = 8


def epoch_windows(rows: RowNumbers, block_rows: int, seed: int, epoch: int) -> list[RowNumbers]:
    """Return the rows of one epoch, window by window: blocks permuted, the rows of 8 blocks shuffled together.

    The result depends only on the arguments, not on where the tokens are kept.

    Args:
        rows: (n,) sorted rows that take part.
        block_rows: images per block of the store.
        seed: seed of the run.
        epoch: from 0.
    """
    block_of = rows // block_rows
    blocks = np.unique(block_of)
    blocks = blocks[permutation(len(blocks), seed, epoch, 0)]
    windows = []
    for number, start in enumerate(range(0, len(blocks), WINDOW_BLOCKS)):
        inside = rows[np.isin(block_of, blocks[start : start + WINDOW_BLOCKS])]
        windows.append(inside[permutation(len(inside), seed, epoch, 1 + number)])
    return windows


def sequential_windows(rows: RowNumbers, block_rows: int) -> list[RowNumbers]:
    """Return sorted rows in windows of 8 blocks, for evaluation."""
    cuts = np.flatnonzero(np.diff(rows // (block_rows * WINDOW_BLOCKS))) + 1
    return np.split(rows, cuts)


def batch_sizes(n_rows: int, batch_size: int, *, drop_last: bool) -> list[int]:
    """Return the size of each batch; the last partial one is dropped if asked, unless it is the only one."""
    full, rest = divmod(n_rows, batch_size)
    return [batch_size] * full + ([rest] if rest and not (drop_last and full) else [])
