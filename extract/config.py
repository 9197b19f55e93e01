"""The settings of one extraction. Every field is a flag of `probe extract` of the same name."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What to extract, from what, to where.

    Attributes:
        model: backbone, such as "timm:vit_base_patch16_224.mae", "open_clip:ViT-L-14/openai" or
            "hub:facebookresearch/dinov2/dinov2_vitb14"; probe models lists them.
        data: images, such as "folder:imagenet", "npz:images.npz" or "demo"; probe datasets lists all.
        out: the store: a folder in Zarr, or NAME.h5 in HDF5.
        split: splits to extract; all that the data has if empty.
        split_fraction: part of the images that become a test split, by class and seed, if the data have one split only.
        layers: "all", "last4", or indices such as "0,5,-1".
        tokens: arrays to keep, of "patch" and "prefix"; the mean over patches is always kept.
        dtype: what tokens are stored as: "float16", "bfloat16", "float32" or "int8".
        views: fixed draws of the transform for each training image: the evaluation transform, then random crops.
        view_scale: smallest and largest part of the image's area that a random crop takes.
        view_ratio: smallest and largest width over height of a random crop.
        row_order: "shuffled" (seeded) or "dataset".
        limit: use at most this many images a split, class-balanced and seeded.
        seed: of the row order, the limit, the split fraction and the random crops, and of the weights under
            `no_pretrained`.
        batch_size: images in one forward pass.
        workers: processes that decode images; by default as many as there are cores.
        device: "auto", "cpu", "cuda", "cuda:1"….
        amp: "auto" (bfloat16 on CUDA, off on CPU), "off", "bfloat16" or "float16".
        block_mib: size aimed at for one block file of one layer, in MiB.
        checkpoint: file with the weights; nothing is downloaded then.
        checkpoint_key: key of the checkpoint, or beginning of names in it, behind which the weights are, such as
            "model"; if several sets fit, their average is taken by default.
        checkpoint_grid: patches that the checkpoint's position table is for: a side, or height and width; told from its
            size by default.
        allow_missing: weights, or submodules such as "norm", that the checkpoint may lack.
        no_pretrained: draw weights from `seed` instead of loading any.
        model_arg: arguments for the backbone's constructor.
        image_size: pixels of the images that the backbone sees: a side, or height and width; its own by default.
        skip_bad_images: leave unreadable images out, and record which.
        dry_run: print what would be done, and do nothing.
        overwrite: empty the store first.
    """

    model: str
    data: str
    out: str | Path
    split: list[str] = field(default_factory=list)
    split_fraction: float | None = None
    layers: str = "all"
    tokens: list[str] = field(default_factory=lambda: ["patch", "prefix"])
    dtype: str = "float16"
    views: int = 1
    view_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    view_ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    row_order: str = "shuffled"
    limit: int | None = None
    seed: int = 0
    batch_size: int = 64
    workers: int | None = None
    device: str = "auto"
    amp: str = "auto"
    block_mib: int = 128
    checkpoint: str | Path | None = None
    checkpoint_key: str | None = None
    checkpoint_grid: list[int] = field(default_factory=list)
    allow_missing: list[str] = field(default_factory=list)
    no_pretrained: bool = False
    model_arg: dict[str, Any] = field(default_factory=dict)
    image_size: list[int] = field(default_factory=list)
    skip_bad_images: bool = False
    dry_run: bool = False
    overwrite: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `out` and `checkpoint` become absolute."""
        paths = {"out": self.out, "checkpoint": self.checkpoint}
        return asdict(self) | {name: None if path is None else os.path.abspath(path) for name, path in paths.items()}
