"""Batches of one layer's tokens, as tensors on the training device, wherever they are kept.

The order is the caller's: windows of rows, one after the other. Kept in memory or not, the batches are the
same; from disk, one window is read ahead while the last is used.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..store import Split
from ..store.layout import PATCH
from ..store.ring import BufferRing, read_ahead
from .order import batch_sizes

Rows = npt.NDArray[np.int64]
Batch = tuple[dict[str, Tensor], Tensor]


class TokenStream:
    """The tokens of chosen rows of one layer."""

    def __init__(
        self,
        split: Split,
        layer: int,
        rows: Rows,
        kinds: Sequence[str],
        *,
        cache: str,
        device: torch.device,
        ring: BufferRing | None = None,
    ) -> None:
        """Read what is kept in memory.

        Args:
            split: of an open store.
            layer: index.
            rows: sorted rows that will be asked for.
            kinds: arrays to deliver.
            cache: where patch tokens are kept, "gpu", "ram" or "disk". Other arrays are small and always kept.
            device: where batches are wanted.
            ring: buffers for reading from disk; streams that take turns may share one.
        """
        self.split, self.layer, self.device = split, layer, device
        self._kinds, self._ring = list(kinds), ring or BufferRing()
        self._place = np.full(len(split), -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self._labels = torch.from_numpy(split.labels[rows])
        keep = torch.device("cpu") if cache != "gpu" else device
        self._kept: dict[str, Tensor] = {
            kind: torch.from_numpy(split.tokens(layer, rows, kind=kind)).to(keep)
            for kind in kinds
            if kind != PATCH or cache != "disk"
        }

    def batches(self, windows: Sequence[Rows], batch_size: int, *, drop_last: bool) -> Iterator[Batch]:
        """Yield ({array: (B, …) in the stored dtype}, labels (B,)) over the windows, in order.

        On the CPU, a batch from disk is good until the next is asked for.

        Args:
            windows: rows, in the order wanted.
            batch_size: rows in a batch.
            drop_last: drop the last partial batch, unless it is the only one.
        """
        order = np.concatenate(windows)
        sizes = batch_sizes(len(order), batch_size, drop_last=drop_last)
        from_disk = self._from_disk(windows, sizes) if PATCH in self._kinds and PATCH not in self._kept else None
        start = 0
        for size in sizes:
            places = torch.from_numpy(self._place[order[start : start + size]])
            arrays = {kind: kept[places.to(kept.device)].to(self.device) for kind, kept in self._kept.items()}
            if from_disk is not None:
                arrays[PATCH] = torch.from_numpy(next(from_disk)).to(self.device)
            yield arrays, self._labels[places].to(self.device)
            start += size

    def _from_disk(self, windows: Sequence[Rows], sizes: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
        return cut_into_batches(read_ahead(self.split, self.layer, windows, self._ring), sizes)


def cut_into_batches(windows: Iterator[npt.NDArray[Any]], sizes: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    """Yield rows in batches of given sizes: a view where a batch lies in one window, a copy where it crosses.

    A view is good until the next batch is asked for.
    """
    window, used = next(windows), 0
    for size in sizes:
        if used + size <= len(window):
            yield window[used : used + size]
            used += size
            continue
        batch, filled = np.empty((size, *window.shape[1:]), window.dtype), 0
        while filled < size:
            if used == len(window):
                window, used = next(windows), 0
            taken = min(size - filled, len(window) - used)
            batch[filled : filled + taken] = window[used : used + taken]
            filled, used = filled + taken, used + taken
        yield batch
