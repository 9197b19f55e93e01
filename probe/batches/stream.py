"""Token batches of one layer, or of several joined or stacked ones, as tensors on the training device.

The caller gives the order: windows of rows, one after the other. The batches are the same whether tokens are in memory
or on disk. From disk, one window of whole batches at a time is read straight into a reused buffer, without another
copy. The next window is read while the last is used.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...store import Split
from ...store.layout import PATCH, POOLED
from ...store.memory import aligned_empty
from ...store.memory_reader import MemoryReader
from ...store.order import RowNumbers
from ...store.ring import RowReader
from .layer_set import LayerSet
from .norm import FinalNorm, is_derived
from .order import WINDOW_BLOCKS, batch_sizes, sequential_windows
from .pieces import Rings, read_batches
from .token_batch import TokenBatch
from .token_shape import CLS, stored_kind, stored_kinds

EVAL_BATCH = 256
PIECE_BYTES = 2**24
"""Batches are gathered together up to this size, which outweighs the cost of handing work to threads."""


class Source(NamedTuple):
    """One view of one array of one layer."""

    layer: int
    kind: str
    view: int


class TokenStream:
    """The tokens of chosen rows of a set of layers."""

    def __init__(  # noqa: PLR0913
        self,
        split: Split,
        layers: LayerSet,
        rows: RowNumbers,
        kinds: Sequence[str],
        *,
        cache: str,
        device: torch.device,
        rings: Rings | None = None,
        norm: FinalNorm | None = None,
        tell: Callable[[int], None] = lambda n_bytes: None,
    ) -> None:
        """Read the tokens to keep in memory, for all views.

        Args:
            split: split of an open store.
            layers: the layers, and whether they are joined or stacked.
            rows: sorted rows that will be requested.
            kinds: arrays to deliver.
            cache: where patch tokens, or all tokens of stacked layers, are kept: "gpu", "ram" or "disk". Other arrays
                are small and stay in memory.
            device: device of the batches.
            rings: buffers for reading from disk; streams that take turns may share them.
            norm: applied to every token before layers are put together; an embedding is already past it.
            tell: called with the number of token bytes processed since the last call.
        """
        self.split, self.layers, self.device = split, layers, device
        self._kinds, self._norm, self._tell = list(kinds), norm, tell
        self._rings = Rings(device) if rings is None else rings
        self._place = np.full(len(split), -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self._labels = torch.from_numpy(split.labels[rows]).to(device)
        read = self._read_to_device if cache == "gpu" else self._read
        placed = stored_kinds(kinds) if layers.n_stacked > 1 else [PATCH]
        self._kept: dict[Source, Tensor] = {
            source: read(source, rows)
            for source in self._sources(kinds)
            if (source.kind not in placed or cache != "disk") and not is_derived(source.kind, normed=norm is not None)
        }
        for source in self._sources([kind for kind in kinds if is_derived(kind, normed=norm is not None)]):
            self._kept[source] = self._normed_mean(source, rows).to(device if cache == "gpu" else "cpu")

    def batches(
        self,
        windows: Sequence[RowNumbers],
        batch_size: int,
        *,
        drop_last: bool,
        view: int = 0,
        kinds: Sequence[str] = (),
    ) -> Iterator[TokenBatch]:
        """Yield batches over the windows, in order: arrays in the stored dtype, or normed in float32.

        On the CPU, patch tokens are valid until the next batch is requested.

        Args:
            windows: rows in the order of delivery.
            batch_size: rows per batch.
            drop_last: drop the last partial batch, unless it is the only one.
            view: index of the view.
            kinds: arrays of the stream to deliver; all if empty.
        """
        order = np.concatenate(windows)
        cuts = np.cumsum([0, *batch_sizes(len(order), batch_size, drop_last=drop_last)])
        batches = [order[start:stop] for start, stop in pairwise(cuts)]
        kinds = list(kinds or self._kinds)
        wanted = self._sources(kinds, view)
        tokens = [self._tokens(source, batches) for source in wanted]
        for places, *found in zip(self._places(batches), *tokens, strict=True):
            yield TokenBatch(self._put_together(kinds, dict(zip(wanted, found, strict=True))), self._labels[places])

    def in_order(self, rows: RowNumbers, kinds: Sequence[str] = ()) -> Iterator[TokenBatch]:
        """Yield batches of view 0 of sorted rows, for evaluation."""
        windows = sequential_windows(rows, self.split.info.block_rows)
        return self.batches(windows, EVAL_BATCH, drop_last=False, kinds=kinds)

    def _sources(self, kinds: Sequence[str], view: int | None = None) -> list[Source]:
        views = range(self.split.info.views) if view is None else [view]
        return [Source(layer, kind, view) for kind in stored_kinds(kinds) for layer in self.layers for view in views]

    def _put_together(self, kinds: Sequence[str], found: dict[Source, Tensor]) -> dict[str, Tensor]:
        """Norm every token, and join or stack the layers: {kind: (B, …, dim)}."""
        parts: dict[str, list[Tensor]] = {}
        for source, tokens in found.items():
            normed = tokens if self._norm is None or source.kind in POOLED else self._norm(tokens)
            parts.setdefault(source.kind, []).append(normed)
        return {kind: self.layers.put_together(_of_kind(kind, parts[stored_kind(kind)])) for kind in kinds}

    def _normed_mean(self, mean: Source, rows: RowNumbers) -> Tensor:
        """Return the mean over normed patch tokens, (n, dim) float32."""
        assert self._norm is not None
        patch = mean._replace(kind=PATCH)
        batches = [part for window in sequential_windows(rows, self.split.info.block_rows) for part in _cut(window)]
        means = []
        for part in self._tokens(patch, batches):
            means.append(self._norm(part).mean(1).cpu())
            self._tell(part.nbytes)
        return torch.cat(means)

    def _tokens(self, source: Source, batches: Sequence[RowNumbers]) -> Iterator[Tensor]:
        """Yield the rows of each batch on the device, from memory or disk."""
        if source not in self._kept:
            return self._from_disk(source, batches)
        kept = self._kept[source]
        if kept.device.type != "cpu" or (self.device.type == "cpu" and source.kind != PATCH):
            return (kept[places] for places in self._places(batches))
        return self._from_ram(source, batches)

    def _places(self, batches: Sequence[RowNumbers]) -> Iterator[Tensor]:
        """Yield the kept positions of each batch's rows, on the device. One copy serves all: each copy costs a wait."""
        rows = np.concatenate([*batches, np.empty(0, np.int64)])
        yield from torch.from_numpy(self._place[rows]).to(self.device).split([len(each) for each in batches])

    def _read(self, source: Source, rows: RowNumbers) -> Tensor:
        reader, done = self.split.reader(source.layer, source.kind, source.view), 0
        values = aligned_empty((len(rows), *reader.row), self._dtype(source.kind))
        for window in sequential_windows(rows, self.split.info.block_rows):
            part = values[done : done + len(window)]
            reader.read(window, part)
            done += len(window)
            self._tell(part.nbytes)
        return self._as_tensor(source.kind, values)

    def _read_to_device(self, source: Source, rows: RowNumbers) -> Tensor:
        """Read one window at a time: the tokens may be larger than the host's memory."""
        like, done = self._read(source, rows[:0]), 0
        kept = torch.empty((len(rows), *like.shape[1:]), dtype=like.dtype, device=self.device)
        for window in self._from_disk(source, sequential_windows(rows, self.split.info.block_rows)):
            kept[done : done + len(window)] = window
            done += len(window)
            self._tell(window.nbytes)
        self._rings.pop((source.layer, source.kind), None)
        return kept

    def _from_disk(self, source: Source, batches: Sequence[RowNumbers]) -> Iterator[Tensor]:
        reader = self.split.reader(source.layer, source.kind, source.view)
        return self._through_buffers(source, reader, batches, WINDOW_BLOCKS * self.split.info.block_rows)

    def _from_ram(self, source: Source, batches: Sequence[RowNumbers]) -> Iterator[Tensor]:
        kept = self._kept[source]
        values = (kept.view(torch.uint16) if kept.dtype == torch.bfloat16 else kept).numpy()
        places, piece_rows = [self._place[rows] for rows in batches], PIECE_BYTES // max(1, values[:1].nbytes)
        return self._through_buffers(source, MemoryReader(values), places, piece_rows)

    def _through_buffers(
        self, source: Source, reader: RowReader, batches: Sequence[RowNumbers], piece_rows: int
    ) -> Iterator[Tensor]:
        layer, kind, _ = source
        return read_batches(
            reader,
            batches,
            piece_rows,
            dtype=self._dtype(kind),
            ring=self._rings[layer, kind],
            as_tensor=lambda values: self._as_tensor(kind, values),
            device=self.device,
        )

    def _dtype(self, kind: str) -> np.dtype[Any]:
        """Return the dtype for reading rows; bfloat16 is read as raw bits, which torch reinterprets."""
        return self.split.stored_dtype(kind) if self.split.is_bfloat16(kind) else self.split.dtype(kind)

    def _as_tensor(self, kind: str, values: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.view(torch.bfloat16) if self.split.is_bfloat16(kind) else tensor


def _cut(rows: RowNumbers) -> list[RowNumbers]:
    return np.split(rows, range(EVAL_BATCH, len(rows), EVAL_BATCH))


def _of_kind(kind: str, of_layers: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the class tokens, (B, 1, dim), of prefix tokens; other arrays as they are."""
    return [tokens[:, :1] for tokens in of_layers] if kind == CLS else of_layers
