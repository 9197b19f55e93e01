"""Stage one from top to bottom: plan, declare, extract units, finish."""

import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..engines import Engine, make_engine
from ..runtime.address import store_path
from ..runtime.device import resolve_device, resolve_precision
from ..runtime.text import counted
from ..store import BlockWriter, StoreWriter, Targets, open_block_writer, open_writer
from .backbones import absolute_model
from .check import check_config
from .config import ExtractConfig
from .decoded import Waits
from .describe import describe
from .forward import Job, images_per_second
from .listing import leave_out_unreadable, list_images, with_stored_views
from .loaded import load_configured, open_source, wants_published
from .loading import n_workers
from .plan import ChosenImages, Plan, check_extends, check_space, make_plan, refusal
from .progress import ImageProgress
from .shard import declare_once
from .statistics import write_channels
from .units import make_units
from .worker import ExtractWork

logger = logging.getLogger(__name__)


def extract(config: ExtractConfig) -> str | Path:
    """See `tokenprobe.extract.extract`."""
    out = store_path(config.out)
    if config.dry_run:
        for line in describe_extraction(config):
            logger.info(line)
        return out
    made = make_engine(config.engine, address=config.address, num_gpus=config.num_gpus)
    if made.leads:
        check_config(config)  # before an engine starts processes
    with made as engine:
        if engine.leads:
            _lead(config, out, engine)
        else:
            engine.serve()
    return out


def _lead(config: ExtractConfig, out: str | Path, engine: Engine) -> None:
    """Plan and declare the store, let the engine extract what is missing, and seal it."""
    config = with_stored_views(config)
    plan, images, job = _prepare(config, out)
    targets = {split: Targets(chosen.rows.labels, chosen.rows.ids) for split, chosen in images.items()}

    def begin(writer: StoreWriter) -> None:
        writer.journal.add_event("start", **_circumstances(config, job))

    if config.shard is not None:
        declare_once(out, plan.manifest, targets, begin)
        with open_block_writer(out, plan.manifest) as shard:
            done = _extract_units(job, shard, engine, config.shard)
        logger.info(f"{out}: shard {config.shard} is done; once all are, give probe merge {out}")
        return
    with open_writer(out, plan.manifest, overwrite=config.overwrite) as writer:
        begin(writer)
        writer.drop_moved_rows(targets)  # rows move if unreadable images are left out that stopped an earlier run
        writer.declare(targets)
        done = _extract_units(job, writer, engine)
        start = time.monotonic()
        complete = writer.seal()
        done = done._replace(seconds=done.seconds + time.monotonic() - start)
        writer.journal.add_event("finish", **_what_was_done(done))
    _say_done(out, done, complete)


def _prepare(config: ExtractConfig, out: str | Path) -> tuple[Plan, Mapping[str, ChosenImages], Job]:
    """List the images and plan the store, before anything is written. Refuse what is not possible."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.amp, device)
    source = open_source(config)
    backbone = load_configured(config, source)
    images = list_images(config, source)
    plan = make_plan(config, backbone, source, images, precision)
    check_space(plan, out, overwrite=config.overwrite)
    if config.skip_bad_images:
        if not config.overwrite:
            check_extends(plan, out)  # a refusal comes before every image is decoded
        images = leave_out_unreadable(config, source, images, backbone.transform)
        plan = plan.with_images(images)
    return plan, images, Job(config, plan, backbone, source, device)


class _Done(NamedTuple):
    """What an extraction did: images of all processes, seconds, and what this process waited for."""

    n_images: int
    seconds: float
    waits: Waits


def _extract_units(job: Job, writer: BlockWriter, engine: Engine, shard: str | None = None) -> _Done:
    """Let the engine extract the missing blocks, and show one progress bar."""
    units = make_units(job.plan, writer, shard)
    start = time.monotonic()
    if job.plan.manifest.recipe.dtype == "int8":
        write_channels(
            job, ((unit.split, layer) for unit in units for of in unit.blocks.values() for layer in of), writer
        )
    work = ExtractWork(job, writer)
    n_images = sum(unit.n_images for unit in units)
    with ExitStack() as shown:
        bars: list[ImageProgress] = []

        def tell(n_done: int, n_bytes: int) -> None:
            if not bars:  # the worker has forked: only now may the bar start its thread
                bars.append(shown.enter_context(ImageProgress(n_images, work.waits.for_images)))
            bars[0].advance(n_done, n_bytes)

        engine.run(units, work, tell)
    return _Done(n_images, time.monotonic() - start, work.waits)


def describe_extraction(config: ExtractConfig) -> list[str]:
    """See `tokenprobe.extract.describe_extraction`."""
    check_config(config)
    config = with_stored_views(config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.amp, device)
    source = open_source(config)
    backbone = load_configured(config, source, fetches=False)
    plan = make_plan(config, backbone, source, list_images(config, source), precision)
    speed = images_per_second(backbone, config, device, precision)
    lines = describe(plan, config, speed)
    if not config.overwrite:
        why = refusal(plan, store_path(config.out), knows_weights=not wants_published(config))
        lines += [] if why is None else [f"{'refused':<10} {why}"]
    return lines


def _circumstances(config: ExtractConfig, job: Job) -> dict[str, Any]:
    """Return the facts of a run that belong in the journal, not in the manifest."""
    settings = config.to_json()
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "cpu",
        "workers": n_workers(config.workers),
        "torch": torch.__version__,
        "config": settings | {"data": job.source.spec, "model": absolute_model(settings["model"])},
        "given": config.not_default,
    }


def _what_was_done(done: _Done) -> dict[str, Any]:
    """Return the facts that the journal keeps about a finished run."""
    waits = done.waits
    return {
        "seconds": round(done.seconds, 3),
        "n_images": done.n_images,
        "decoded_per_core_second": round(waits.for_images.images_per_core_second, 1),
        "seconds_waited_for_images": round(waits.for_images.waited, 3),
        "seconds_waited_for_tokens": round(waits.for_tokens.seconds, 3),
        "seconds_waited_for_disk": round(waits.for_disk.seconds, 3),
    }


def _say_done(out: str | Path, done: _Done, complete: bool) -> None:
    if not done.n_images:
        logger.info(f"{out}: nothing to do, the store already holds all that was asked for")
    else:
        speed = f"{done.seconds:.1f} s, {done.n_images / done.seconds:.0f} images/s"
        logger.info(f"{out}: {counted(done.n_images, 'image')} in {speed}")
    if not complete:
        logger.warning(
            f"{out}: this command is done, but the store is not complete: it declares parts that this command does not "
            "make, such as other layers; probe info names them; extract those too"
        )
