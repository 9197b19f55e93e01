"""Stage one from top to bottom: plan, load, loop, write, finish."""

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, unknown_name
from ..store import BlockKey, StoreWriter, open_writer
from ..store.formats import store_files
from ..store.layout import CHANNELS, PATCH, PREFIX, array_name, layer_name
from ..store.quantize import DTYPES, STATISTICS_ROWS
from ..store.writer import check_path
from .backbones import BACKBONES, Backbone, BackboneRequest, absolute_model, split_source
from .backbones.contract import Tokens
from .config import ExtractConfig
from .datasets import ImageList, ImageSource, absolute_data, open_dataset
from .loading import BadImage, RowImages, find_bad_images, make_loader
from .plan import ChosenImages, Plan, augmentation_of, check_space, describe, make_plan, parse_layers, views_of
from .progress import ImageProgress
from .rows import Rows, batches_of, choose_rows, even_batch_size
from .statistics import ChannelSums
from .stored import stored_arrays
from .views import Transform, normalise

CHOICES = {
    "dtype": tuple(DTYPES),
    "row_order": ("shuffled", "dataset"),
    "amp": ("auto", "off", "bfloat16", "float16"),
}
LEAST = {"batch_size": 1, "block_mib": 1, "limit": 1, "workers": 0, "seed": 0, "views": 1}
MOST_OF_RANGE = {"view_scale": 1, "view_ratio": 1000}


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        key: the block.
        rows: of the split, all in the block.
        size: images to pad to.
        layers: of the block that are missing.
        last: whether the block is full then.
    """

    key: BlockKey
    rows: range
    size: int
    layers: Sequence[int]
    last: bool


class Job(NamedTuple):
    """What every forward pass of one extraction shares."""

    config: ExtractConfig
    plan: Plan
    backbone: Backbone
    source: ImageSource
    device: torch.device


def extract(config: ExtractConfig) -> Path:
    """See `tokenprobe.extract.extract`."""
    out = Path(config.out)
    _check(config, out)
    device = _resolve_device(config.device)
    precision = _resolve_precision(config.amp, device)
    source = open_dataset(config.data)
    backbone = _load_backbone(config)
    images = _list_images(config, source, out, backbone)
    plan = make_plan(config, backbone, source, images, precision)
    if config.dry_run:
        speed = _images_per_second(backbone, config, device, precision)
        print("\n".join(describe(plan, out, speed, overwrite=config.overwrite)))
        return out
    check_space(plan, out, overwrite=config.overwrite)
    with open_writer(out, plan.manifest, overwrite=config.overwrite) as writer:
        writer.journal.add_event("start", **_circumstances(config, device))
        writer.declare({split: (chosen.rows.labels, chosen.rows.ids) for split, chosen in images.items()})
        work = _missing_batches(plan, writer, config.batch_size)
        seconds = _extract_batches(Job(config, plan, backbone, source, device), work, writer)
        complete = writer.complete()
        writer.journal.add_event("finish", seconds=round(seconds, 3), n_images=sum(len(batch.rows) for batch in work))
    _say_done(out, work, seconds, complete)
    return out


def _check(config: ExtractConfig, out: Path) -> None:
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise unknown_name(name, str(getattr(config, name)), known)
    for kind in config.tokens:
        if kind not in (PATCH, PREFIX):
            raise unknown_name("tokens", kind, (PATCH, PREFIX))
    for name, least in LEAST.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"{name} {value}: expected at least {least}")
    for name, most in MOST_OF_RANGE.items():
        limits = getattr(config, name)
        if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= most:
            raise InputError(f"{name} {limits}: expected two numbers, 0 < smallest <= largest <= {most}")
    check_path(out)


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = torch.device("meta")
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (
        not torch.cuda.is_available() or (resolved.index or 0) >= torch.cuda.device_count()
    ):
        raise InputError(f"device {device!r} asked for, but torch finds {torch.cuda.device_count()} CUDA device(s)")
    return resolved


def _resolve_precision(amp: str, device: torch.device) -> str:
    if amp == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return "float32" if amp == "off" else amp


def _load_backbone(config: ExtractConfig) -> Backbone:
    kind, name = split_source(config.model)
    checkpoint = None if config.checkpoint is None else Path(config.checkpoint)
    backbone = BACKBONES[kind](
        BackboneRequest(name, config.model_arg, checkpoint, not config.no_pretrained, config.seed)
    )
    if backbone.ignored:
        shown = ", ".join(backbone.ignored[:5]) + (", …" if len(backbone.ignored) > 5 else "")
        _say(f"{len(backbone.ignored)} keys of the checkpoint have no place in the backbone and are ignored: {shown}")
    if backbone.resized:
        _say(f"the checkpoint's position table was resampled to the backbone's grid {backbone.shapes[0].grid}")
    return backbone


def _list_images(config: ExtractConfig, source: ImageSource, out: Path, backbone: Backbone) -> dict[str, ChosenImages]:
    """List each split wanted, leave out what cannot be read if asked to, and fix the rows."""
    chosen = {}
    for split in _splits(config, source):
        images = source.images(split)
        skipped = _skipped(config, source, out, split, images, backbone.transform) if config.skip_bad_images else []
        rows = _choose(config, images, set(skipped))
        if not len(rows):
            raise InputError(f"split {split!r} of {config.data!r} has no images")
        n_listed = min(len(images.ids), config.limit or len(images.ids))
        chosen[split] = ChosenImages(rows, n_listed, images.content, skipped)
    return chosen


def _splits(config: ExtractConfig, source: ImageSource) -> list[str]:
    splits = config.split or list(source.splits)
    for split in splits:
        if split not in source.splits:
            raise unknown_name(f"split of {config.data!r}", split, source.splits)
    if config.views > 1 and all(views_of(split, config) == 1 for split in splits):
        raise InputError(
            f"{config.views} views asked for, and none of the splits ({', '.join(splits)}) is for training: its name "
            "would begin with 'train'; other splits have view 0 alone, so extract them with --views 1"
        )
    return splits


def _choose(config: ExtractConfig, images: ImageList, skipped: Set[str]) -> Rows:
    shuffled = config.row_order == "shuffled"
    return choose_rows(images, skipped, config.limit, shuffled=shuffled, seed=config.seed)


def _skipped(
    config: ExtractConfig, source: ImageSource, out: Path, split: str, images: ImageList, transform: Transform
) -> list[str]:
    """Return the ids of unreadable images: from a store that has found them already, else by decoding all."""
    if store_files(out).exists() and not config.overwrite:
        known = store_files(out).read_manifest()
        info = known.splits.get(split)
        if info is not None and info.source == images.content and (info.skipped or known.complete):
            return info.skipped
    _say(f"looking for unreadable images in {split!r}: every image is decoded once more")
    readable: set[str] = set()
    skipped: set[str] = set()
    while True:  # under a limit, others take the place of those left out
        rows = _choose(config, images, skipped)
        keys = [(split, row, 0) for row, key in enumerate(rows.ids) if key not in readable]
        decoded = RowImages(source, {split: rows}, transform, augmentation_of(config))
        bad = find_bad_images(decoded, keys, workers=_workers(config))
        if not bad:
            return sorted(skipped)
        for image in bad:
            _say(f"left out {image.split}/{image.id}: {image.reason}")
        skipped |= {image.id for image in bad}
        readable |= set(rows.ids) - skipped


def _missing_batches(plan: Plan, writer: StoreWriter, batch_size: int) -> list[Batch]:
    """List the forward passes that remain, view by view, in row order."""
    work = []
    for split, info in plan.manifest.splits.items():
        size = even_batch_size(info.block_rows, batch_size)
        blocks = batches_of(info.n_images, info.block_rows, size)
        for view, (block, batches) in product(range(info.views), enumerate(blocks)):
            key = BlockKey(split, view, block)
            if layers := writer.missing_layers(key):
                work += [Batch(key, rows, size, layers, rows is batches[-1]) for rows in batches]
    return work


def _extract_batches(job: Job, work: Sequence[Batch], writer: StoreWriter) -> float:
    """Run the backbone over what is missing; return the seconds it took."""
    dtype = job.plan.manifest.recipe.dtype
    channels = _channels(job, work, writer) if dtype == "int8" else {}
    batches = _run(job, work)  # forks the workers, before the progress bar has a thread that prints
    with ImageProgress(sum(len(batch.rows) for batch in work)) as progress:
        for batch, tokens in batches:
            n_bytes = 0
            split = batch.key.split
            ids = job.plan.rows[split].ids[batch.rows.start : batch.rows.stop]
            for layer, (patch, prefix) in tokens.items():
                kinds = job.plan.manifest.splits[split].layers[layer_name(layer)]
                arrays = stored_arrays(patch, prefix, kinds, dtype, channels.get((split, layer), {}), layer, ids)
                n_bytes += sum(values.nbytes for values in arrays.values())
                writer.append(batch.key, layer, arrays)
                if batch.last:
                    writer.finish(batch.key, layer)
            progress.advance(len(batch.rows), n_bytes)
        return progress.seconds


def _channels(job: Job, work: Sequence[Batch], writer: StoreWriter) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Return the statistics that int8 tokens are standardised by; take those that the store lacks.

    They come from the first images of a split, whatever is missing of it, so that a resumed run has the same.
    """
    wanted = {(batch.key.split, layer) for batch in work for layer in batch.layers}
    arrays = {
        (split, layer): {
            kind: array_name(split, layer_name(layer), kind) + CHANNELS
            for kind in job.plan.manifest.splits[split].layers[layer_name(layer)]
            if kind in (PATCH, PREFIX)
        }
        for split, layer in sorted(wanted)
    }
    for split in sorted({split for split, _ in wanted}):
        names = {key: names for key, names in arrays.items() if key[0] == split}
        lacking = [layer for (_, layer), of_layer in names.items() if not all(map(writer.has_whole, of_layer.values()))]
        if lacking:
            _say(f"int8: taking the channel statistics of the first images of {split!r}")
            sums = ChannelSums()
            for _, tokens in _run(job, _first_batches(job, split, lacking)):
                sums.add(tokens)
            for (layer, kind), values in sums.statistics().items():
                if kind in names[split, layer]:
                    writer.write_whole(names[split, layer][kind], values.numpy())
    return {
        key: {kind: torch.from_numpy(writer.read_whole(name)).to(job.device) for kind, name in names.items()}
        for key, names in arrays.items()
    }


def _first_batches(job: Job, split: str, layers: Sequence[int]) -> list[Batch]:
    """Return the forward passes over the first images of a split."""
    info = job.plan.manifest.splits[split]
    size = even_batch_size(info.block_rows, job.config.batch_size)
    blocks = batches_of(min(info.n_images, STATISTICS_ROWS), info.block_rows, size)
    return [Batch(BlockKey(split, 0, 0), rows, size, layers, False) for batches in blocks for rows in batches]


def _run(job: Job, work: Sequence[Batch]) -> Iterator[tuple[Batch, dict[int, Tokens]]]:
    """Start decoding, and return what yields the tokens of each batch.

    Raises:
        InputError: an image cannot be read, or a batch does not fit in memory.
    """
    images = RowImages(job.source, job.plan.rows, job.backbone.transform, augmentation_of(job.config))
    keys = [[(batch.key.split, row, batch.key.view) for row in batch.rows] for batch in work]
    workers, pinned = _workers(job.config) if work else 0, job.device.type == "cuda"
    job.backbone.module.to(job.device)
    return _forward_each(job, work, iter(make_loader(images, keys, workers=workers, pinned=pinned)))


def _forward_each(
    job: Job, work: Sequence[Batch], loaded: Iterator[Tensor | BadImage]
) -> Iterator[tuple[Batch, dict[int, Tokens]]]:
    config, plan, backbone, _, device = job
    precision = plan.manifest.recipe.precision
    for batch, pixels in zip(work, loaded, strict=True):
        if isinstance(pixels, BadImage):
            raise InputError(
                f"cannot read image {pixels.id!r} of split {pixels.split!r} in {config.data!r} ({pixels.reason}); "
                "give --skip-bad-images to leave it out and go on where this stopped"
            )
        yield batch, _forward(backbone, pixels, batch.layers, batch.size, device, precision)


def _images_per_second(backbone: Backbone, config: ExtractConfig, device: torch.device, precision: str) -> float:
    """Time the backbone on one batch of grey images, after one to warm up."""
    n_images = config.batch_size if device.type == "cuda" else min(config.batch_size, 8)
    pixels = torch.full((n_images, 3, *backbone.transform.input_size), 128, dtype=torch.uint8)
    backbone.module.to(device)
    layers = parse_layers(config.layers, len(backbone.shapes))
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
) -> dict[int, Tokens]:
    """Run one batch. A split's last batch is padded: kernels may round differently at another batch size."""
    n_images = len(pixels)
    if n_images < batch_size:
        pixels = torch.cat([pixels, pixels.new_zeros(batch_size - n_images, *pixels.shape[1:])])
    inputs = normalise(pixels.to(device, non_blocking=True), backbone.transform)
    amp = nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
    with torch.inference_mode(), amp, _explained_memory(batch_size):
        tokens = backbone.tokens(inputs, layers)
    return {
        layer: (patch[:n_images], None if prefix is None else prefix[:n_images])
        for layer, (patch, prefix) in tokens.items()
    }


@contextmanager
def _explained_memory(batch_size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator has none of its own
        if "memory" not in str(error):
            raise
        raise InputError(
            f"a batch of {batch_size} images does not fit in memory; give a smaller --batch-size"
        ) from error


def _workers(config: ExtractConfig) -> int:
    return config.workers if config.workers is not None else len(os.sched_getaffinity(0))


def _circumstances(config: ExtractConfig, device: torch.device) -> dict[str, Any]:
    """Return what the journal keeps of a run and the store does not."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "workers": _workers(config),
        "torch": torch.__version__,
        "config": config.to_json() | {"data": absolute_data(config.data), "model": absolute_model(config.model)},
    }


def _say_done(out: Path, work: Sequence[Batch], seconds: float, complete: bool) -> None:
    if not work:
        _say(f"{out}: nothing to do, everything asked for is there")
    else:
        n_images = sum(len(batch.rows) for batch in work)
        _say(f"{out}: {n_images:,} images in {seconds:.1f} s, {n_images / seconds:.0f} images/s")
    if not complete:
        _say(f"{out}: parts that another command began are not finished; probe info names them: extract those too")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
