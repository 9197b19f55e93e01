"""Batches of one layer's tokens, as tensors on the training device, wherever they are kept.

The order is the caller's: windows of rows, one after the other. Kept in memory or not, the batches are the
same. From disk, a window of whole batches at a time is read straight into its places in a reused buffer: nothing is
copied on the way. The next window is on its way while the last is used.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..store import Split
from ..store.layout import PATCH
from ..store.ring import BufferRing, read_ahead
from .order import WINDOW_BLOCKS, batch_sizes
from .upload import Upload

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
            ring: buffers for reading from disk, of `make_ring`; streams that take turns may share one.
        """
        self.split, self.layer, self.device = split, layer, device
        self._kinds, self._ring = list(kinds), ring or make_ring(device)
        self._place = np.full(len(split), -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self._labels = torch.from_numpy(split.labels[rows])
        keep = torch.device("cpu") if cache != "gpu" else device
        self._kept: dict[str, Tensor] = {
            kind: self._as_tensor(kind, split.tokens(layer, rows, kind=kind, dtype=self._dtype(kind))).to(keep)
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
        cuts = np.cumsum([0, *sizes])
        batches = [order[start:stop] for start, stop in pairwise(cuts)]
        from_disk = self._from_disk(batches) if PATCH in self._kinds and PATCH not in self._kept else None
        for rows in batches:
            places = torch.from_numpy(self._place[rows])
            arrays = {kind: kept[places.to(kept.device)].to(self.device) for kind, kept in self._kept.items()}
            if from_disk is not None:
                arrays[PATCH] = next(from_disk)
            yield arrays, self._labels[places].to(self.device)

    def _from_disk(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """Yield the patch tokens of each batch on the device."""
        reader, dtype = self.split.reader(self.layer), self._dtype(PATCH)
        window = WINDOW_BLOCKS * self.split.info.block_rows
        groups = group_batches(batches, window)
        pieces = read_ahead(reader, [np.concatenate(group) for group in groups], dtype, self._ring)
        upload = Upload(self.device)
        for group, piece in zip(groups, pieces, strict=True):
            ends = np.cumsum([len(rows) for rows in group])
            yield from upload.each(self._as_tensor(PATCH, part) for part in np.split(piece, ends[:-1]))

    def _dtype(self, kind: str) -> np.dtype[Any]:
        """Return the type that rows are read as: bfloat16 as its bits, which torch takes as they are."""
        return self.split.stored_dtype(kind) if self.split.is_bfloat16(kind) else self.split.dtype(kind)

    def _as_tensor(self, kind: str, values: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.view(torch.bfloat16) if self.split.is_bfloat16(kind) else tensor


def make_ring(device: torch.device) -> BufferRing:
    """Return buffers for reading: for a GPU two that are pinned, for a CPU one, since it is busy with one thing."""
    if device.type != "cuda":
        return BufferRing()
    return BufferRing(2, lambda n_bytes: torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy())


def group_batches(batches: Sequence[Rows], window: int) -> list[list[Rows]]:
    """Put consecutive batches together while they hold no more rows than a window.

    Rows of one window that are read together follow one another in their files: a few large reads instead of many.
    """
    groups: list[list[Rows]] = []
    n_rows = window
    for rows in batches:
        n_rows += len(rows)
        if n_rows > window:
            groups.append([])
            n_rows = len(rows)
        groups[-1].append(rows)
    return groups
