"""Stores that benchmarks read: the demo's, and made-up tokens."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import BlockKey, Manifest, Targets, open_writer
from tokenprobe.store.contents import Recipe, SplitInfo
from tokenprobe.store.layout import LayerShape, block_rows
from tokenprobe.workflows.demo import ARCHITECTURE, WEIGHTS

DEMO_WEIGHTS = Path(__file__).parents[1] / "assets" / WEIGHTS
DEMO: dict[str, Any] = {
    "model": "timm:VisionTransformer", "model_arg": ARCHITECTURE, "checkpoint": DEMO_WEIGHTS, "data": "demo",
}  # fmt: skip
"""The demo's backbone and images, as fields of an `ExtractConfig`."""
TOKENS = (196, 384)
"""Tokens of an image, and channels of a token: a layer of ViT-S/16."""
IMAGE_BYTES = TOKENS[0] * TOKENS[1] * 2


def make_demo_store(path: Path, **changes: Any) -> Path:
    """Extract the demo's images; keywords are fields of the config."""
    extract(ExtractConfig(**DEMO | {"out": path} | changes))
    return path


def draw_tokens(n_images: int = 64) -> np.ndarray:
    """Return float16 noise (n_images, 196, 384)."""
    return np.random.default_rng(0).standard_normal((n_images, *TOKENS), np.float32).astype(np.float16)


def write_store(
    address: str | Path,
    sizes: Mapping[str, int],
    values: np.ndarray,
    *,
    n_classes: int = 1,
    rows: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a store of one layer, with random labels.

    Args:
        address: of the store.
        sizes: number of images of each split.
        values: float16 tokens (M, N, D) of M images. N is a square. They are repeated until there are enough.
        n_classes: number of classes.
        rows: images per block; by default as an extraction chooses them.
        overwrite: whether to replace a store.
    """
    side, n_bytes = math.isqrt(values.shape[1]), values[0].nbytes
    shape, classes = LayerShape((side, side), values.shape[2], 0), [str(label) for label in range(n_classes)]
    infos = {
        split: SplitInfo(
            n, rows or block_rows(n, n_bytes, 128 * 2**20), f"{number:032x}", None, [], classes, {"layer_00": ["patch"]}
        )
        for number, (split, n) in enumerate(sizes.items())
    }
    labels = np.random.default_rng(0).integers(n_classes, size=max(sizes.values()))
    targets = {split: Targets(labels[:n], [*map(str, range(n))]) for split, n in sizes.items()}
    transform, order = {"input_size": [224, 224]}, {"kind": "dataset"}
    recipe = Recipe("timm:none", {}, "0" * 64, transform, "float32", "float16", order, [])
    manifest = Manifest(recipe, "made", 1, {"layer_00": shape}, None, infos, {})
    with open_writer(address, manifest, overwrite=overwrite) as writer:
        writer.declare(targets)
        for split, info in infos.items():
            for block in range(info.n_blocks):
                key, start = BlockKey(split, 0, block), block * info.block_rows
                stop = min(start + info.block_rows, info.n_images)
                while start < stop:
                    first = start % len(values)
                    piece = values[first : first + stop - start]
                    writer.append(key, 0, {"patch": piece})
                    start += len(piece)
                writer.finish_block(key, 0)
        assert writer.seal()
