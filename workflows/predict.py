"""`probe predict`: a trained head behind its backbone, on new images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet", ".npz")
AMPS = ("auto", "off", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which head, on which images. Every field is a flag of `probe predict` of the same name.

    Attributes:
        images: a file, or a folder of images at any depth.
        cell: name of the cell, from the column cell of the run's results; not needed if only one is selected.
        out: file to write: .csv or .parquet (image, predicted class, score), or .npz (ids, classes, and all logits);
            by default the table is printed.
        model: the backbone, if it is a local folder (of torch.hub code, or local-dir:) that is not where it was.
        checkpoint: file with the backbone's weights, if they are not where they were.
        batch_size: images in one forward pass.
        workers: processes that decode images; by default as many as there are cores.
        device: "auto", "cpu", "cuda", "cuda:1"….
        amp: of the backbone: "auto" (bfloat16 on CUDA, off on CPU), "off", "bfloat16" or "float16".
        skip_bad_images: leave unreadable images out.
    """

    images: str
    cell: str | None = None
    out: str | Path | None = None
    model: str | None = None
    checkpoint: str | Path | None = None
    batch_size: int = 64
    workers: int | None = None
    device: str = "auto"
    amp: str = "auto"
    skip_bad_images: bool = False


def predict(run: str | Path, config: PredictConfig) -> "pd.DataFrame":
    """Run a saved head on new images, and write or print what it says.

    Args:
        run: a run folder; its store is not needed.
        config: which head, which images, to where.

    Returns:
        One row an image: `image`, its path relative to the folder; `predicted`, the class, or several joined by "|"
        where an image may be of several; `score`, of softmax or sigmoid, or what ridge regression gives.

    Raises:
        TokenprobeError: something asked for cannot be had; the message says what to do.
    """
    from . import predictions  # torch loads here, so that `probe --help` does without

    _check(config)
    return predictions.predict(Path(run), config)


def _check(config: PredictConfig) -> None:
    if config.batch_size < 1 or (config.workers or 0) < 0:
        raise InputError(
            f"batch_size {config.batch_size}, workers {config.workers}: expected at least 1 image and 0 processes"
        )
    if config.amp not in AMPS:
        raise unknown_name("amp", config.amp, AMPS)
    if config.out is not None and Path(config.out).suffix not in SUFFIXES:
        raise InputError(f"cannot write {str(config.out)!r}: expected a file name that ends in {', '.join(SUFFIXES)}")
    if config.out is not None:
        _check_place(Path(config.out))


def _check_place(out: Path) -> None:
    """Refuse what cannot be written now, not after hours of images."""
    folder = next(each for each in out.absolute().parents if each.exists())
    if out.is_dir():
        raise InputError(f"cannot write {str(out)!r}: it is a folder; give another name")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"cannot write {str(out)!r}: {str(folder)!r} is no folder that can be written to; give another"
        )
