"""Stores made by an extraction, and helpers that inspect and damage their files."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tokenprobe.extract import ExtractConfig
from tokenprobe.store.array_spec import array_specs
from tokenprobe.store.formats import store_files
from tokenprobe.store.verify import Kind
from tokenprobe.testing.store_kit import folder_of, root_of

FORMATS = ("zarr", "h5")
NOT_INPUTS_ALONE = {"journal.jsonl", ".lock"}
TINY: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
Found = dict[str, tuple[Kind, str]]
"""Kind and words of a problem, by file."""


def make_images(folder: Path) -> Path:
    """Write 20 images for training and 10 for testing as one `.npz` file."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n_images in (("train", 20), ("test", 10)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n_images, 16, 16, 3)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(n_images) % 3
    np.savez(folder / "images.npz", **arrays)
    return folder / "images.npz"


def config_of(images: Path, out: Path, **changes: Any) -> ExtractConfig:
    fields: dict[str, Any] = {
        "model": "timm:VisionTransformer",
        "model_arg": TINY,
        "no_pretrained": True,
        "dtype": "int8",
        "views": 2,
        "batch_size": 4,
        "workers": 0,
    }
    return ExtractConfig(data=f"npz:{images}", out=out, **fields | changes)


def files_of(store: Path) -> dict[str, Path]:
    """Return every file whose bytes depend only on the inputs, by the name that verify gives it."""
    folder, root = folder_of(store), root_of(store)
    found = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file for name, file in found.items() if name not in NOT_INPUTS_ALONE} | {root.name: root}


def content_of(store: Path) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in files_of(store).items()}


def marks_of(store: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every file except the root, which a repair writes twice."""
    marks = {name: (file.stat().st_ino, file.stat().st_mtime_ns) for name, file in files_of(store).items()}
    del marks[store_files(store).root.name]
    return marks


def block_names(store: Path) -> set[str]:
    files = store_files(store)
    return {name for spec in array_specs(files.read_manifest()) for name in files.block_names(spec)}


def some_blocks(store: Path, n: int, array: str = "train/layer_01/patch/") -> list[str]:
    return sorted(name for name in block_names(store) if name.startswith(array))[:n]


def truncate(store: Path, names: list[str]) -> Found:
    size = files_of(store)[names[0]].stat().st_size
    os.truncate(files_of(store)[names[0]], size - 1)
    return {names[0]: ("damaged", f"damaged: {size - 1} bytes, {size} when it was written")}


def delete(store: Path, names: list[str]) -> Found:
    for name in names:
        files_of(store)[name].unlink()
    return dict.fromkeys(names, ("missing", "missing"))


def journal_of(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder_of(store) / "journal.jsonl").read_text().splitlines()]
