"""The settings of the workflows. Every field is a flag of the command of the same name."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, and to where. Every field is a flag of `probe export` of the same name.

    Attributes:
        out: folder to make.
        to: "npy", "safetensors" or "zarr" (compressed); zarr if `out` ends in .zarr.
        layers: "all", "last4", or indices such as "0,5,-1".
        split: splits to export; all that the store has if empty.
        tokens: arrays to export, of "patch", "prefix" and "mean"; all that the store has if empty.
        dtype: of patch and prefix tokens in npy ("float16" or "float32") or safetensors ("bfloat16" too); by default
            that of the store, or what it is read as where the form has no such.
    """

    out: str | Path
    to: str | None = None
    layers: str = "all"
    split: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    dtype: str | None = None


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
        checkpoint_key: key of the checkpoint, or beginning of names in it, behind which the weights are; by default as
            they were extracted with.
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
    checkpoint_key: str | None = None
    batch_size: int = 64
    workers: int | None = None
    device: str = "auto"
    amp: str = "auto"
    skip_bad_images: bool = False
