"""Batches of one layer's tokens, as tensors on the training device, wherever they are kept.

The order is the caller's: windows of rows, one after the other. Kept in memory or not, the batches are the
same; from disk, one window is read ahead while the last is used.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..store import Split
from ..store.layout import PATCH
from .order import batch_sizes

Rows = npt.NDArray[np.int64]
Batch = tuple[dict[str, Tensor], Tensor]


class TokenStream:
    """The tokens of chosen rows of one layer."""

    def __init__(
        self, split: Split, layer: int, rows: Rows, kinds: Sequence[str], *, cache: str, device: torch.device
    ) -> None:
        """Read what is kept in memory.

        Args:
            split: of an open store.
            layer: index.
            rows: sorted rows that will be asked for.
            kinds: arrays to deliver.
            cache: where patch tokens are kept, "gpu", "ram" or "disk". Other arrays are small and always kept.
            device: where batches are wanted.
        """
        self.split, self.layer, self.device = split, layer, device
        self._kinds = list(kinds)
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

        Args:
            windows: rows, in the order wanted.
            batch_size: rows in a batch.
            drop_last: drop the last partial batch, unless it is the only one.
        """
        order = np.concatenate(windows)
        start = 0
        patches = self._from_disk(windows) if PATCH in self._kinds and PATCH not in self._kept else None
        for size in batch_sizes(len(order), batch_size, drop_last=drop_last):
            places = torch.from_numpy(self._place[order[start : start + size]])
            arrays = {kind: kept[places.to(kept.device)].to(self.device) for kind, kept in self._kept.items()}
            if patches is not None:
                arrays[PATCH] = patches.take(size).to(self.device)
            yield arrays, self._labels[places].to(self.device)
            start += size

    def _from_disk(self, windows: Sequence[Rows]) -> "_WindowReader":
        return _WindowReader(self.split, self.layer, windows)


class _WindowReader:
    """Reads windows one ahead, and hands out their rows in pieces of any size."""

    def __init__(self, split: Split, layer: int, windows: Sequence[Rows]) -> None:
        self._split, self._layer = split, layer
        self._windows = iter(windows)
        self._pool = ThreadPoolExecutor(1)
        self._next = self._submit()
        self._current: npt.NDArray[Any] | None = None
        self._used = 0

    def take(self, n_rows: int) -> Tensor:
        """Return the next rows, (n_rows, patches, dim)."""
        parts = []
        while n_rows:
            if self._current is None or self._used == len(self._current):
                self._advance()
            assert self._current is not None
            part = self._current[self._used : self._used + n_rows]
            self._used += len(part)
            n_rows -= len(part)
            parts.append(torch.from_numpy(part))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _advance(self) -> None:
        assert self._next is not None, "more rows taken than the windows have"
        self._current, self._used = self._next.result(), 0
        self._next = self._submit()

    def _submit(self) -> Future[npt.NDArray[Any]] | None:
        window = next(self._windows, None)
        if window is None:
            self._pool.shutdown(wait=False)
            return None
        return self._pool.submit(self._split.tokens, self._layer, window)
