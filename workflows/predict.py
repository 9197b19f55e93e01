"""`probe predict`: a trained head behind its backbone, on new images."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Which head, on which images. Every field is a flag of `probe predict` of the same name.

    Attributes:
        images: a file, or a folder of images at any depth.
        cell: name of the cell, from the column cell of the run's results; not needed if only one is selected.
        out: file to write: .csv or .parquet (image, predicted class, score), or .npz (ids, classes, and all logits);
            by default the command prints the table.
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
    """Run a saved head on new images, and write what it says if a file is named.

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

    return predictions.predict(Path(run), config)
