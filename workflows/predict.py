"""`probe predict`: a backbone and its trained head, run on new images."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..errors import InputError, MissingError
from ..extract.ahead import upload
from ..extract.datasets.loose_images import SPLIT, LooseImages
from ..extract.decoded import BadImage, DecodeSpeed
from ..extract.forward import explained_memory
from ..extract.loading import RowImages, Wanted, explained_loss, find_bad_images, make_loader, n_workers
from ..extract.progress import ImageProgress
from ..extract.rows import SplitRows, batches_of, choose_rows
from ..extract.views import normalise
from ..probe.report.best import BEST, best_cell
from ..probe.run.results import Run
from ..probe.run.saved import is_shared, saved_cells
from ..runtime.device import computing, resolve_device, resolve_precision
from ..runtime.text import counted
from ..store.outputs import check_file
from .config import PredictConfig
from .predictions import SUFFIXES, predicted_rows, write_predictions
from .probed_model import ProbedModel, configured_pipeline

logger = logging.getLogger(__name__)

N_NAMED = 3
"""Cells that the error names when there are several."""


@explained_loss()
def predict(run: str | Path, config: PredictConfig) -> pd.DataFrame:
    """Run a saved head on new images, and write the predictions if a file is named.

    Args:
        run: a run folder, whose store is not needed; or one head, as `load_head` takes it.
        config: the head, the images, and the output file.

    Returns:
        One row per image. `image` is its path relative to the folder. `predicted` is the class, or several classes
        joined by "|" for a multi-label head. `score` comes from softmax or sigmoid, or is the estimate of ridge
        regression.

    Raises:
        TokenprobeError: a setting cannot be met; the message says what to do.
    """
    _check(config)
    device = resolve_device(config.device)
    source = LooseImages(str(config.images))
    cell = config.cell if is_shared(run) else _cell(Path(run), config.cell)
    model = configured_pipeline(run, cell, config).to(device)
    readable, decode_speed = _readable(source, model, config), DecodeSpeed()
    batches = _run_batches(model, source, readable, config, decode_speed)  # forks before the bar starts a thread
    keeps_logits = config.out is not None and Path(config.out).suffix == ".npz"
    kept: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    with ImageProgress(len(readable), decode_speed, "predict") as progress:
        for logits in batches:
            rows += predicted_rows(readable.ids[len(rows) : len(rows) + len(logits)], logits, model.about)
            kept += [logits] if keeps_logits else []
            progress.advance(len(logits), 0)
    table = pd.DataFrame(rows)
    if config.out is not None:
        write_predictions(table, kept, model.about, config.out)
    logger.info(f"{counted(len(table), 'image')} by {cell or run}" + (f" -> {config.out}" if config.out else ""))
    return table


def _check(config: PredictConfig) -> None:
    if config.out is not None and Path(config.out).suffix not in SUFFIXES:
        raise InputError(f"cannot write {str(config.out)!r}: expected a file name that ends in {', '.join(SUFFIXES)}")
    if config.out is not None:
        _check_place(check_file(config.out))


def _check_place(out: Path) -> None:
    """Refuse a place that cannot be written to, before hours of work rather than after."""
    folder = next(each for each in out.absolute().parents if each.exists())
    if out.is_dir():
        raise InputError(f"cannot write {str(out)!r}: it is a folder; give another name")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {str(out)!r}: {str(folder)!r} cannot be written to; give another folder")


def _cell(run: Path, asked: str | None) -> str:
    if asked == BEST:
        return best_cell(Run(run), set(saved_cells(run)), "cell with a head")
    return asked or only_cell(run)


def only_cell(run: Path) -> str:
    """Return the only selected cell of a run that has a head.

    Raises:
        InputError: there is not exactly one; the message names the best cells.
        MissingError: there is no such run, or it has no results.
    """
    known, results = set(saved_cells(run)), Run(run).results
    if results.empty:
        raise MissingError(
            f"run {str(run)!r} has no results yet; wait for its probe fit, or give one of its heads with --cell"
        )
    chosen = results[results["selected"] & results["cell"].isin(known)]
    if len(chosen) == 1:
        return str(chosen["cell"].iloc[0])
    figures = [name for name in ("val_top1", "val_map", "test_top1", "test_map") if chosen[name].notna().any()]
    best = chosen.sort_values(figures[0], ascending=False, kind="stable") if figures else chosen
    named = ", ".join(
        f"{row.cell} ({figures[0]} {getattr(row, figures[0]):.3f})" for row in best[:N_NAMED].itertuples()
    )
    raise InputError(
        f"run {str(run)!r} has {len(chosen)} selected cells with a head; give one with --cell, such as {named}, or "
        "best; all are in its results.csv"
    )


def _readable(source: LooseImages, model: ProbedModel, config: PredictConfig) -> SplitRows:
    """Return the images, with `skip_bad_images` only the readable ones."""
    listed = source.images(SPLIT)
    rows = choose_rows(listed, set(), None, shuffled=False, seed=0)
    if config.skip_bad_images:
        images = RowImages(source, {SPLIT: rows}, model.transform)
        bad = find_bad_images(images, Wanted(SPLIT, range(len(rows))), workers=n_workers(config.workers))
        for image in bad:
            logger.warning(f"left out {image.id}: {image.reason}")
        rows = choose_rows(listed, {image.id for image in bad}, None, shuffled=False, seed=0)
    if not len(rows):
        raise InputError(f"none of the images in {str(config.images)!r} can be read")
    return rows


def _run_batches(
    model: ProbedModel, source: LooseImages, rows: SplitRows, config: PredictConfig, decode_speed: DecodeSpeed
) -> Iterator[Tensor]:
    """Start decoding, and return an iterator over the logits (B, classes) of each batch, float32 on the CPU."""
    device = next(model.parameters()).device
    precision = resolve_precision(config.amp, device)
    batches = [Wanted(SPLIT, part) for [part] in batches_of(len(rows), config.batch_size, config.batch_size)]
    images, workers = RowImages(source, {SPLIT: rows}, model.transform), n_workers(config.workers)
    loader = make_loader(images, batches, workers=workers, pinned=device.type == "cuda")  # starts the workers
    return (_logits(model, pixels, precision, str(config.images)) for pixels in decode_speed.watch(loader))


def _logits(model: ProbedModel, pixels: Tensor | BadImage, precision: str, images: str) -> Tensor:
    """Return the logits (B, classes) of one batch, float32 on the CPU."""
    if isinstance(pixels, BadImage):
        raise InputError(
            f"cannot read image {pixels.id!r} in {images!r} ({pixels.reason}); give --skip-bad-images to leave it out"
        )
    device = next(model.parameters()).device
    with torch.inference_mode(), explained_memory(len(pixels)):
        inputs = normalise(upload(pixels, device), model.transform)
        with computing(device, precision):
            tokens = model.forward_features(inputs)
        return model.forward_head(tokens).float().cpu()
