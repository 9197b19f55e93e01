"""Forward passes: the backbone turns batches of images into tokens of the wanted layers."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from ..runtime.device import computing
from ..store import BlockKey
from .ahead import beside_the_next, upload
from .backbones import Backbone
from .config import ExtractConfig
from .datasets import ImageSource
from .decoded import BadImage, DecodeSpeed
from .loading import RowImages, Wanted, make_loader, n_workers
from .plan import Plan, augmentation_of, wanted_layers
from .views import normalise


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        key: the block.
        rows: rows of the split; all lie in the block.
        size: number of images after padding.
        layers: layers that the block lacks.
        last: whether this batch completes the block.
    """

    key: BlockKey
    rows: range
    size: int
    layers: Sequence[int]
    last: bool


class Outputs(NamedTuple):
    """The tokens of one batch from one layer.

    Attributes:
        patch: (B, patches, dim).
        prefix: (B, prefix, dim), or None if the backbone has no prefix tokens.
        embedding: (B, embedding) of the last layer, or None.
    """

    patch: Tensor
    prefix: Tensor | None
    embedding: Tensor | None


class Job(NamedTuple):
    """Objects that all forward passes of one extraction share."""

    config: ExtractConfig
    plan: Plan
    backbone: Backbone
    source: ImageSource
    device: torch.device


def run_batches(
    job: Job, work: Iterable[Batch], decode_speed: DecodeSpeed | None = None, sizes: Sequence[int] | None = None
) -> Iterator[tuple[Batch, dict[int, Outputs]]]:
    """Start decoding, and return an iterator over the tokens of each batch.

    Args:
        job: objects that the passes share.
        work: the passes.
        decode_speed: counter of decoded images, or None.
        sizes: number of images of every pass that may come, if `work` is not known yet. It is then taken lazily.

    Raises:
        InputError: an image cannot be read, or a batch does not fit in memory.
    """
    images = RowImages(job.source, job.plan.rows, job.backbone.transform, augmentation_of(job.config))
    begun = deque[Batch]()

    def wanted() -> Iterator[Wanted]:
        for batch in work:
            begun.append(batch)
            yield Wanted(batch.key.split, batch.rows, batch.key.view)

    workers, pinned = n_workers(job.config.workers), job.device.type == "cuda"
    loader = make_loader(images, wanted(), workers=workers, pinned=pinned, sizes=sizes)  # starts the workers
    job.backbone.module.to(job.device)
    return beside_the_next(_forward_each(job, begun, (decode_speed or DecodeSpeed()).watch(loader)), job.device)


def _forward_each(
    job: Job, begun: "deque[Batch]", loaded: Iterator[Tensor | BadImage]
) -> Iterator[tuple[Batch, dict[int, Outputs]]]:
    config, plan, backbone, _, device = job
    precision = plan.manifest.recipe.precision
    for pixels in loaded:
        batch = begun.popleft()
        if isinstance(pixels, BadImage):
            raise InputError(
                f"cannot read image {pixels.id!r} of split {pixels.split!r} in {config.data!r} ({pixels.reason}); "
                "give --skip-bad-images to leave it out and continue from here"
            )
        yield batch, _forward(backbone, pixels, batch.layers, batch.size, device, precision)


def images_per_second(backbone: Backbone, config: ExtractConfig, device: torch.device, precision: str) -> float:
    """Time the backbone on one batch of grey images, after a warm-up batch."""
    n_images = config.batch_size if device.type == "cuda" else min(config.batch_size, 8)
    pixels = torch.full((n_images, 3, *backbone.transform.input_size), 128, dtype=torch.uint8)
    backbone.module.to(device)
    layers = wanted_layers(config, backbone)
    for _ in range(2):
        start = time.perf_counter()
        tokens = _forward(backbone, pixels, layers, n_images, device, precision)
        float(tokens[layers[-1]][0].sum())  # waits for the device
    return n_images / (time.perf_counter() - start)


def _forward(
    backbone: Backbone,
    pixels: Tensor,
    layers: Sequence[int],
    batch_size: int,
    device: torch.device,
    precision: str,
) -> dict[int, Outputs]:
    """Run one batch. The last batch of a split is padded, since kernels may round differently at another batch size."""
    n_images, pixels = len(pixels), upload(pixels, device)
    if n_images < batch_size:
        pixels = torch.cat([pixels, pixels.new_zeros(batch_size - n_images, *pixels.shape[1:])])
    inputs = normalise(pixels, backbone.transform)
    with torch.inference_mode(), computing(device, precision), explained_memory(batch_size):
        tokens, embedding = backbone.tokens_and_embedding(inputs, layers)
    last = len(backbone.shapes) - 1

    def unpadded(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[:n_images]

    return {
        layer: Outputs(patch[:n_images], unpadded(prefix), unpadded(embedding) if layer == last else None)
        for layer, (patch, prefix) in tokens.items()
    }


NO_MEMORY = ("out of memory", "allocate memory")
"""Parts of the messages of errors that are not `torch.OutOfMemoryError`."""


@contextmanager
def explained_memory(batch_size: int) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError that suggests a smaller batch."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator raises a plain RuntimeError
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        raise InputError(
            f"a batch of {batch_size} images does not fit in memory; give a smaller --batch-size"
        ) from error
