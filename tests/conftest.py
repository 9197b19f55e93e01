"""Small real inputs that many tests share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from tokenprobe.extract import ExtractConfig
from tokenprobe.probe.report import write
from tokenprobe.runtime.console import shown
from tokenprobe.store import BlockKey, Manifest, Store, Targets, open_store, open_writer
from tokenprobe.store.contents import Recipe, SplitInfo
from tokenprobe.store.layout import LayerShape, layer_name

CALM: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
}
settings.register_profile("quick", derandomize=True, max_examples=60, **CALM)
settings.register_profile("random", max_examples=2000, **CALM)
settings.load_profile("quick")
"""What is tried at random is the same in every run, unless pytest is given --hypothesis-profile=random."""

DATA = Path(__file__).parent / "data"
CLASSES = ["ant", "bee", "cat"]

TINY_VIT: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
"""Arguments of timm's VisionTransformer: 16 patch tokens and a class token, 12 wide, 3 layers."""


# Products this small are not worth sharing: on a busy machine threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def all_figures() -> Iterator[tuple[str, ...]]:
    """Let fits draw one figure: all of them take longer than most fits here. The tests of figures draw the others."""
    with pytest.MonkeyPatch.context() as patched:
        names = write.FIGURES
        patched.setattr(write, "FIGURES", ("layer_curve",))
        yield names


@pytest.fixture
def messages() -> Iterator[None]:
    """Show messages and progress on stderr meanwhile, as the command does."""
    with shown():
        yield


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show messages and progress on stderr meanwhile, as the command does on a terminal of 80 columns."""
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with shown():
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference vectors."""
    return DATA


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of small PNGs of various sizes: 20 a class in train, 8 a class in test."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, n_images in (("train", 20), ("test", 8)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(n_images):
                size = (int(rng.integers(16, 40)), int(rng.integers(16, 40)), 3)
                pixels = rng.integers(0, 256, size) // 2 + 40 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02d}.png")
    return root


@pytest.fixture
def tiny_config(image_folder: Path, tmp_path: Path) -> Callable[..., ExtractConfig]:
    """Make the config of an extraction that takes a second; keyword arguments replace its fields."""

    def make(**changes: Any) -> ExtractConfig:
        fields: dict[str, Any] = {
            "model": "timm:VisionTransformer",
            "model_arg": TINY_VIT,
            "no_pretrained": True,
            "data": f"folder:{image_folder}",
            "out": tmp_path / "tiny.zarr",
            "batch_size": 4,
            "workers": 0,
        }
        return ExtractConfig(**fields | changes)

    return make


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Store]:
    """Write a store of given tokens, without a backbone."""
    return write_tokens


def write_tokens(
    path: Path,
    tokens: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]],
    labels: Mapping[str, np.ndarray],
    *,
    grid: tuple[int, int],
    block_rows: int,
    dtype: str = "float16",
    more_views: Sequence[Mapping[int, Mapping[str, np.ndarray]]] = (),
    final_norm: dict[str, Any] | None = None,
    model: str = "timm:none",
) -> Store:
    """Write `tokens[split][layer][kind]`, (n, …), in blocks of `block_rows`.

    Labels are (n,) or, where images have several, (n, classes). `more_views` are those of "train" after the first.
    """
    views = {"train": 1 + len(more_views)} if more_views else {}
    manifest = replace(made_manifest(tokens, labels, grid, block_rows, dtype, views), final_norm=final_norm)
    manifest = replace(manifest, recipe=replace(manifest.recipe, model=model))
    with open_writer(path, manifest) as writer:
        ids = {split: [f"{split}/{row}" for row in range(len(of_split))] for split, of_split in labels.items()}
        writer.declare({split: Targets(y.astype(np.int64), ids[split]) for split, y in labels.items()})
        written = [(split, 0, of_split) for split, of_split in tokens.items()]
        written += [("train", view, of_view) for view, of_view in enumerate(more_views, start=1)]
        for split, view, of_split in written:
            for block in range(manifest.splits[split].n_blocks):
                key = BlockKey(split, view, block)
                rows = slice(block * block_rows, (block + 1) * block_rows)
                for layer, kinds in of_split.items():
                    stored = {kind: as_stored(values[rows], kind, dtype) for kind, values in kinds.items()}
                    writer.append(key, layer, stored)
                    writer.finish_block(key, layer)
        assert writer.seal()
    return open_store(path)


def made_manifest(
    tokens: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]],
    labels: Mapping[str, np.ndarray],
    grid: tuple[int, int],
    block_rows: int,
    dtype: str,
    views: Mapping[str, int],
) -> Manifest:
    """Describe tokens as `write_tokens` takes them; `views` of the splits that have more than one."""
    some = next(iter(next(iter(tokens.values())).values()))
    dim = some["mean"].shape[-1]
    n_prefix = some["prefix"].shape[1] if "prefix" in some else 0
    n_classes = max(1 + int(y.max()) if y.ndim == 1 else y.shape[1] for y in labels.values())
    layers = sorted({layer for of_split in tokens.values() for layer in of_split})
    embeddings = {
        layer: kinds["embedding"].shape[-1]
        for of_split in tokens.values()
        for layer, kinds in of_split.items()
        if "embedding" in kinds
    }
    return Manifest(
        recipe=Recipe(
            model="timm:none",
            model_args={},
            weights="0" * 64,
            transform={"input_size": [16, 16]},
            precision="float32",
            dtype=dtype,
            row_order={"kind": "shuffled", "seed": 0},
            prefix_names=[f"reg{i}" for i in range(n_prefix)],
        ),
        dataset="made",
        depth=max(layers) + 1,
        layers={layer_name(layer): LayerShape(grid, dim, n_prefix, embeddings.get(layer, 0)) for layer in layers},
        final_norm=None,
        splits={
            split: SplitInfo(
                n_images=len(labels[split]),
                block_rows=block_rows,
                source="0" * 32,
                limit=None,
                skipped=[],
                classes=[f"class {label}" for label in range(n_classes)],
                layers={layer_name(layer): sorted(kinds) for layer, kinds in of_split.items()},
                views=views.get(split, 1),
                augmentation={"kind": "made"} if split in views else None,
            )
            for split, of_split in tokens.items()
        },
        versions={},
    )


def as_stored(values: np.ndarray, kind: str, dtype: str) -> np.ndarray:
    """Return tokens in the type of the files; what has that type already stays as it is."""
    if kind in ("mean", "embedding") or (dtype == "bfloat16" and values.dtype == np.uint16):
        return values
    if dtype == "bfloat16":
        return torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    return values if dtype == "int8" else values.astype(dtype)
