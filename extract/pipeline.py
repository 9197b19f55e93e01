"""Stage one from top to bottom: plan, load, loop, write, finish."""

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..runtime.device import resolve_device, resolve_precision
from ..runtime.text import counted
from ..store import BlockKey, StoreWriter, Targets, open_writer
from ..store.layout import layer_name
from .backbones import Backbone, absolute_model, load_backbone
from .check import check_config
from .config import ExtractConfig
from .datasets import ImageSource, open_dataset
from .decoded import Waits
from .describe import describe
from .divided import DividedSource
from .forward import Batch, Job, images_per_second, run_batches
from .listing import leave_out_unreadable, list_images
from .loading import n_workers
from .plan import Plan, check_extends, check_space, make_plan
from .progress import ImageProgress
from .rows import batches_of, even_batch_size
from .statistics import channels_of
from .stored import stored_arrays
from .views import decoded_as

logger = logging.getLogger(__name__)


def extract(config: ExtractConfig) -> Path:
    """See `tokenprobe.extract.extract`."""
    out = Path(config.out)
    if config.dry_run:
        for line in describe_extraction(config):
            logger.info(line)
        return out
    check_config(config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.amp, device)
    source = open_source(config)
    backbone = _load_backbone(config, source)
    images = list_images(config, source)
    plan = make_plan(config, backbone, source, images, precision)
    check_space(plan, out, overwrite=config.overwrite)
    if config.skip_bad_images:
        if not config.overwrite:
            check_extends(plan, out)  # a refusal comes before every image is decoded
        images = leave_out_unreadable(config, source, images, backbone.transform)
        plan = plan.with_images(images)
    with open_writer(out, plan.manifest, overwrite=config.overwrite) as writer:
        writer.journal.add_event("start", **_circumstances(config, source, device))
        targets = {split: Targets(chosen.rows.labels, chosen.rows.ids) for split, chosen in images.items()}
        writer.drop_moved_rows(targets)  # rows move if unreadable images are left out that stopped an earlier run
        writer.declare(targets)
        work = _missing_batches(plan, writer, config.batch_size)
        waits, start = Waits(), time.monotonic()
        _extract_batches(Job(config, plan, backbone, source, device), work, writer, waits)
        with waits.for_disk:
            complete = writer.seal()
        seconds = time.monotonic() - start
        writer.journal.add_event("finish", **_what_was_done(work, seconds, waits))
    _say_done(out, work, seconds, complete)
    return out


def describe_extraction(config: ExtractConfig) -> list[str]:
    """See `tokenprobe.extract.describe_extraction`."""
    check_config(config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.amp, device)
    source = open_source(config)
    backbone = _load_backbone(config, source, fetches=False)
    plan = make_plan(config, backbone, source, list_images(config, source), precision)
    speed = images_per_second(backbone, config, device, precision)
    return describe(plan, config, speed)


def open_source(config: ExtractConfig) -> ImageSource:
    """Open the data of an extraction, divided into train and test if it asks for that.

    Raises:
        InputError: no such source, or data that cannot be divided.
        MissingError: the data is not there.
    """
    source = open_dataset(config.data)
    return source if config.split_fraction is None else DividedSource(source, config.split_fraction, config.seed)


def _load_backbone(config: ExtractConfig, source: ImageSource, *, fetches: bool = True) -> Backbone:
    if fetches and not config.no_pretrained and config.checkpoint is None:
        logger.info(f"loading {config.model}: its weights are fetched if they are not here yet")
    backbone = load_backbone(
        config.model,
        model_arg=config.model_arg,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        checkpoint_grid=config.checkpoint_grid,
        allow_missing=config.allow_missing,
        no_pretrained=config.no_pretrained,
        seed=config.seed,
        image_size=config.image_size,
        fetches=fetches,
    )
    for line in [*(backbone.loaded.lines() if backbone.loaded else []), *backbone.notes]:
        logger.info(line)
    backbone.transform = replace(decoded_as(config.decode, backbone.transform), upright=source.upright)
    return backbone


def _missing_batches(plan: Plan, writer: StoreWriter, batch_size: int) -> list[Batch]:
    """List the remaining forward passes, view by view, in row order."""
    work = []
    for split, info in plan.manifest.splits.items():
        size = even_batch_size(info.block_rows, batch_size)
        blocks = batches_of(info.n_images, info.block_rows, size)
        for view, (block, batches) in product(range(info.views), enumerate(blocks)):
            key = BlockKey(split, view, block)
            if layers := writer.missing_layers(key):
                work += [Batch(key, rows, size, layers, rows is batches[-1]) for rows in batches]
    return work


def _extract_batches(job: Job, work: Sequence[Batch], writer: StoreWriter, waits: Waits) -> None:
    """Run the backbone over the missing batches, and hand the stored arrays to the writer."""
    dtype = job.plan.manifest.recipe.dtype
    channels = channels_of(job, work, writer) if dtype == "int8" else {}
    batches = run_batches(job, work, waits.for_images)  # forks, so before the progress bar starts its thread
    with ImageProgress(sum(len(batch.rows) for batch in work), waits.for_images) as progress:
        for batch, tokens in batches:
            n_bytes = 0
            split = batch.key.split
            ids = job.plan.rows[split].ids[batch.rows.start : batch.rows.stop]
            for layer, outputs in tokens.items():
                kinds = job.plan.manifest.splits[split].layers[layer_name(layer)]
                with waits.for_tokens:
                    arrays = stored_arrays(outputs, kinds, dtype, channels.get((split, layer), {}), layer, ids)
                n_bytes += sum(values.nbytes for values in arrays.values())
                with waits.for_disk:
                    writer.append(batch.key, layer, arrays)
                    if batch.last:
                        writer.finish_block(batch.key, layer)
            progress.advance(len(batch.rows), n_bytes)


def _circumstances(config: ExtractConfig, source: ImageSource, device: torch.device) -> dict[str, Any]:
    """Return the facts of a run that belong in the journal, not in the manifest."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "workers": n_workers(config.workers),
        "torch": torch.__version__,
        "config": config.to_json() | {"data": source.spec, "model": absolute_model(config.model)},
    }


def _what_was_done(work: Sequence[Batch], seconds: float, waits: Waits) -> dict[str, Any]:
    """Return the facts that the journal keeps about a finished run."""
    return {
        "seconds": round(seconds, 3),
        "n_images": sum(len(batch.rows) for batch in work),
        "decoded_per_core_second": round(waits.for_images.images_per_core_second, 1),
        "seconds_waited_for_images": round(waits.for_images.waited, 3),
        "seconds_waited_for_tokens": round(waits.for_tokens.seconds, 3),
        "seconds_waited_for_disk": round(waits.for_disk.seconds, 3),
    }


def _say_done(out: Path, work: Sequence[Batch], seconds: float, complete: bool) -> None:
    if not work:
        logger.info(f"{out}: nothing to do, the store already holds everything")
    else:
        n_images = sum(len(batch.rows) for batch in work)
        done = f"{counted(n_images, 'image')} in {seconds:.1f} s, {n_images / seconds:.0f} images/s"
        logger.info(f"{out}: {done}")
    if not complete:
        logger.warning(
            f"{out}: another command began parts that are not finished; probe info names them; extract those too"
        )
