"""How large the stores of ImageNet-1k are, by dry runs of `probe extract`.

    python benchmarks/sizing.py            print the table of docs/arithmetic.md
    python benchmarks/sizing.py --models 2 only its first rows

The sizes depend on the number of images, and not on what they show. So the data are as many images of one pixel.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tokenprobe.extract import ExtractConfig, describe_extraction

N_IMAGES = {"train": 1_281_167, "val": 50_000}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("timm:vit_small_patch16_224", {}),
    ("timm:vit_base_patch16_224", {}),
    ("timm:vit_large_patch16_224", {}),
    ("timm:vit_large_patch14_dinov2", {"img_size": 224}),
    ("timm:vit_large_patch14_dinov2", {"img_size": 518}),
]
HEADER = [
    "| model | layers | tokens of an image | one layer | all layers | all layers, int8 |",
    "|---|--:|---|--:|--:|--:|",
]


def make_data(folder: Path) -> str:
    """Write a data set of as many images as ImageNet-1k, and return its name."""
    arrays: dict[str, Any] = {f"x_{split}": np.zeros((n, 1, 1), np.uint8) for split, n in N_IMAGES.items()}
    labels: dict[str, Any] = {f"y_{split}": np.arange(n) % 1000 for split, n in N_IMAGES.items()}
    np.savez(folder / "imagenet.npz", **arrays, **labels)
    return f"npz:{folder / 'imagenet.npz'}"


def dry_run(data: str, model: str, model_arg: dict[str, Any], dtype: Any) -> dict[str, str]:
    """Return what a dry run says, by the first word of each line."""
    config = ExtractConfig(
        model=model, model_arg=model_arg, no_pretrained=True, data=data, out="imagenet.zarr", dtype=dtype,
        device="cpu", batch_size=1, dry_run=True,
    )  # fmt: skip
    return dict(re.split(r"\s{2,}|(?<=per layer) ", line.strip(), maxsplit=1) for line in describe_extraction(config))


def rows(data: str, models: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield a row of the table per model."""
    for model, model_arg in models:
        half, byte = (dry_run(data, model, model_arg, dtype) for dtype in ("float16", "int8"))
        one, n_layers = half["per layer"].split(", ")
        size = f" at {model_arg['img_size']}" if model_arg else ""
        yield (
            f"| {model.removeprefix('timm:')}{size} | {n_layers.split()[0]} | {half['tokens']} | {one} | "
            f"{half['total']} | {byte['total']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=len(MODELS))
    n_models = parser.parse_args().models
    with TemporaryDirectory() as folder:
        print("\n".join([*HEADER, *rows(make_data(Path(folder)), MODELS[:n_models])]))


if __name__ == "__main__":
    main()
