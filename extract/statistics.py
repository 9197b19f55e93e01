"""Mean and deviation of each channel over the first images of a split. They standardise int8 tokens."""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..store import BlockKey, BlockWriter
from ..store.layout import CHANNELS, PATCH, PREFIX, array_name, layer_index, layer_name
from ..store.quantize import STATISTICS_ROWS, channel_statistics
from .forward import Batch, Job, Outputs, run_batches
from .loading import explained_loss
from .rows import batches_of, even_batch_size

logger = logging.getLogger(__name__)

Channels = dict[tuple[str, int], dict[str, Tensor]]


def write_channels(job: Job, wanted: Iterable[tuple[str, int]], writer: BlockWriter) -> None:
    """Compute and write the statistics that the store lacks, of layers of splits.

    They come from the first images of a split, even if the store already holds the tokens of those images. A resumed
    run thus has the same statistics. If another process was first, its statistics stay.
    """
    arrays = {key: _arrays_of(job, *key) for key in sorted(set(wanted))}
    lacking = {key: names for key, names in arrays.items() if not all(map(writer.has_whole, names.values()))}
    if lacking:
        sums = _sums_of_first_images(job, list(lacking))
        for (split, layer), names in lacking.items():
            for kind, values in sums[split].statistics(layer).items():
                if kind in names:
                    writer.write_whole(names[kind], values.numpy(), replace=False)


def read_channels(job: Job, writer: BlockWriter) -> Channels:
    """Return the statistics that the store has, on the device of the job, by (split, layer) and kind."""
    layers = [(split, layer_index(name)) for split, info in job.plan.manifest.splits.items() for name in info.layers]
    arrays = {key: _arrays_of(job, *key) for key in layers}
    return {
        key: {kind: torch.from_numpy(writer.read_whole(name)).to(job.device) for kind, name in names.items()}
        for key, names in arrays.items()
        if all(map(writer.has_whole, names.values()))
    }


def _arrays_of(job: Job, split: str, layer: int) -> dict[str, str]:
    """Return the name of each array of statistics of a layer, by kind."""
    kinds = job.plan.manifest.splits[split].layers[layer_name(layer)]
    return {kind: array_name(split, layer_name(layer), kind) + CHANNELS for kind in kinds if kind in (PATCH, PREFIX)}


@explained_loss()
def _sums_of_first_images(job: Job, lacking: Sequence[tuple[str, int]]) -> dict[str, "ChannelSums"]:
    """Run the backbone over the first images of splits, for the layers that lack statistics."""
    splits = sorted({split for split, _ in lacking})
    logger.info(f"int8: computing channel statistics over the first images of {', '.join(map(repr, splits))}")
    layers = {split: [layer for of, layer in lacking if of == split] for split in splits}
    sums = {split: ChannelSums() for split in splits}
    for batch, tokens in run_batches(
        job, [each for split in splits for each in _first_batches(job, split, layers[split])]
    ):
        sums[batch.key.split].add(tokens)
    return sums


def _first_batches(job: Job, split: str, layers: Sequence[int]) -> list[Batch]:
    """Return the forward passes over the first images of a split."""
    info = job.plan.manifest.splits[split]
    size = even_batch_size(info.block_rows, job.config.batch_size)
    blocks = batches_of(min(info.n_images, STATISTICS_ROWS), info.block_rows, size)
    return [Batch(BlockKey(split, 0, 0), rows, size, layers, False) for batches in blocks for rows in batches]


class ChannelSums:
    """Sums over the tokens of some layers, batch by batch, in float64."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], tuple[int, Tensor, Tensor]] = {}

    def add(self, tokens: Mapping[int, Outputs]) -> None:
        """Add one batch: for each layer, (patch, prefix) tokens, (B, N, dim) each."""
        for layer, of_layer in tokens.items():
            for kind, values in ((PATCH, of_layer.patch), (PREFIX, of_layer.prefix)):
                if values is not None:
                    x = values.flatten(0, 1).double()
                    n, total, squares = self._sums.get((layer, kind), (0, 0, 0))
                    self._sums[layer, kind] = (n + len(x), total + x.sum(0), squares + x.square().sum(0))

    def statistics(self, layer: int) -> dict[str, Tensor]:
        """Return (2, dim) float32, mean and deviation, of a layer by kind."""
        return {
            kind: torch.from_numpy(channel_statistics(n, total.cpu().numpy(), squares.cpu().numpy()))
            for (of, kind), (n, total, squares) in self._sums.items()
            if of == layer
        }
