"""Small stores with known numbers, written and looked at for the tests of stores."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ..errors import StoreError
from ..store import BlockKey, BlockWriter, Manifest, StoreWriter, Targets, open_store, open_writer
from ..store.array_spec import array_spec
from ..store.contents import Recipe, SplitInfo
from ..store.formats import store_files
from ..store.journal import read_records
from ..store.layout import LayerShape

SUFFIXES = (".zarr", ".h5")
"""One for each format of this package."""
DTYPES = ("float16", "bfloat16", "float32", "int8")
BLOCK, GRID, N_PREFIX, DIM = 4, (2, 3), 2, 5
COUNTS = {"train": 11, "test": 3}
VIEWS = {"train": 2, "test": 1}
LAYERS = (0, 3)
ROWS = {"patch": (6, DIM), "prefix": (N_PREFIX, DIM), "mean": (DIM,)}
ALL = sorted(ROWS)
Arrays = dict[str, npt.NDArray[Any]]
Place = TypeVar("Place", Path, str)


@dataclass(frozen=True)
class Contents:
    """The contents of a store.

    Attributes:
        manifest: its manifest.
        stored: each array by name, (views, n, …) in the type of the files, including labels and channels.
        returned: each array of tokens and means by name, (views, n, …), as the reader should return it.
    """

    manifest: Manifest
    stored: Arrays
    returned: Arrays

    def ids(self, split: str) -> list[str]:
        """Return the ids of the rows of a split."""
        info = self.manifest.splits[split]
        listed = [f"{split}/{row}" for row in range(info.n_images + len(info.skipped))]
        return [key for key in listed if key not in info.skipped]

    def without(self, split: str, rows: Sequence[int]) -> "Contents":
        """Leave out images of a split: later rows move, and the channel statistics of int8 tokens change."""
        info = self.manifest.splits[split]
        stored = dict(self.stored)
        for name in (name for name in stored if name.startswith(f"{split}/")):
            if name.endswith("_channels"):
                stored[name] = stored[name] + np.float32(1)
            else:
                stored[name] = np.delete(stored[name], rows, axis=0 if name.endswith("labels") else 1)
        skipped = [f"{split}/{row}" for row in rows]
        fewer = replace(info, n_images=info.n_images - len(rows), skipped=skipped)
        return replace(
            self, manifest=replace(self.manifest, splits=self.manifest.splits | {split: fewer}), stored=stored
        )

    def part(self, layers: dict[str, dict[str, list[str]]], **info: Any) -> "Contents":
        """Declare only these arrays, by split and layer; keywords replace fields of those splits."""
        named = {name for of_split in layers.values() for name in of_split}
        manifest = replace(
            self.manifest,
            complete=False,
            layers={name: self.manifest.layers[name] for name in sorted(named)},
            splits={s: replace(self.manifest.splits[s], layers=of_split, **info) for s, of_split in layers.items()},
        )
        return replace(self, manifest=manifest)


def make_contents(dtype: str = "float16", *, counts: dict[str, int] = COUNTS, block_rows: int = BLOCK) -> Contents:
    """Draw tokens with an outlier channel for layers 0 and 3, with two views of `train`."""
    rng = np.random.default_rng(0)
    stored: Arrays = {}
    returned: Arrays = {}
    for split, n in counts.items():
        stored[f"{split}/labels"] = rng.integers(0, 3, n)
        for layer in LAYERS:
            for kind, row in ROWS.items():
                values = rng.standard_normal((VIEWS[split], n, *row)) * [1, 1, 30, 1, 0.01] + [0, 5, -20, 0, 0]
                name = f"{split}/layer_{layer:02d}/{kind}"
                encode(name, values, "float32" if kind == "mean" else dtype, stored, returned)
    return Contents(make_manifest(dtype, counts, block_rows), stored, returned)


def encode(name: str, values: npt.NDArray[Any], dtype: str, stored: Arrays, returned: Arrays) -> None:
    """Store float64 values (views, n, …) with torch and plain formulas, not with the code under test."""
    if dtype == "bfloat16":
        rounded = torch.from_numpy(values).to(torch.bfloat16)
        stored[name], returned[name] = rounded.view(torch.uint16).numpy(), rounded.float().numpy()
    elif dtype == "int8":
        mean, deviation = values[0].mean((0, 1)), values[0].std((0, 1))
        z = (values - mean) / deviation
        scale = (np.abs(z).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
        stored[name] = np.clip(np.round(z / scale), -127, 127).astype(np.int8)
        stored[f"{name}_scale"] = scale[..., 0].astype(np.float16)
        stored[f"{name}_channels"] = np.stack([mean, deviation]).astype(np.float32)
        returned[name] = (stored[name] * scale * deviation + mean).astype(np.float16)
    else:
        stored[name] = returned[name] = values.astype(dtype)


def make_manifest(dtype: str, counts: dict[str, int], block_rows: int) -> Manifest:
    """Declare all arrays of `make_contents`."""
    scales = ["patch_scale", "prefix_scale"] if dtype == "int8" else []
    return Manifest(
        recipe=Recipe(
            model="timm:none",
            model_args={},
            weights="0" * 64,
            transform={"input_size": [16, 16]},
            precision="float32",
            dtype=dtype,
            row_order={"kind": "shuffled", "seed": 0},
            prefix_names=["cls", "reg0"],
        ),
        dataset="made",
        depth=4,
        layers={f"layer_{layer:02d}": LayerShape(GRID, DIM, N_PREFIX) for layer in LAYERS},
        final_norm=None,
        splits={
            split: SplitInfo(
                n_images=n,
                block_rows=block_rows,
                source="0" * 32,
                limit=None,
                skipped=[],
                classes=["ant", "bee", "cat"],
                layers={f"layer_{layer:02d}": sorted([*ROWS, *scales]) for layer in LAYERS},
                views=VIEWS[split],
                augmentation={"seed": 0} if VIEWS[split] > 1 else None,
            )
            for split, n in counts.items()
        },
        versions={"tokenprobe": "0"},
    )


def write(path: Place, contents: Contents, *, batch: int = 2, overwrite: bool = False) -> Place:
    """Write the missing parts of a store that the manifest declares; return the path."""
    with open_writer(path, contents.manifest, overwrite=overwrite) as writer:
        declare(writer, contents)
        fill(writer, contents, blocks(contents.manifest), batch)
        sys.audit("step")
        assert writer.seal()
    return path


def write_some(path: Place, contents: Contents, keys: Sequence[BlockKey]) -> Place:
    """Declare everything and write only some blocks; return the path."""
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        fill(writer, contents, keys)
        assert not writer.seal()
    return path


def declare(writer: StoreWriter, contents: Contents) -> None:
    """Write everything before the tokens, as an extraction does."""
    splits = contents.manifest.splits
    targets = targets_of(contents)
    writer.drop_moved_rows(targets)
    writer.declare(targets)
    for split, info in splits.items():
        for layer, kinds in info.layers.items():
            for name in (f"{split}/{layer}/{kind}_channels" for kind in kinds if f"{kind}_scale" in kinds):
                writer.write_whole(name, contents.stored[name])


def targets_of(contents: Contents) -> dict[str, Targets]:
    """Return the labels and ids of each split."""
    splits = contents.manifest.splits
    return {split: Targets(contents.stored[f"{split}/labels"], contents.ids(split)) for split in splits}


def blocks(manifest: Manifest) -> list[BlockKey]:
    """Return every block of every view of every split."""
    return [
        BlockKey(split, view, block)
        for split, info in manifest.splits.items()
        for view in range(info.views)
        for block in range(-(-info.n_images // info.block_rows))
    ]


def fill(
    writer: BlockWriter, contents: Contents, keys: Sequence[BlockKey], batch: int = 2, layers: Sequence[int] = LAYERS
) -> None:
    """Write the missing layers of some blocks, in batches."""
    for key in keys:
        for layer in sorted({*writer.missing_layers(key)} & {*layers}):
            arrays = rows_of(contents, key, layer)
            for start in range(0, len(next(iter(arrays.values()))), batch):
                sys.audit("step")
                writer.append(key, layer, {kind: values[start : start + batch] for kind, values in arrays.items()})
            sys.audit("step")
            writer.finish_block(key, layer)


def rows_of(contents: Contents, key: BlockKey, layer: int) -> Arrays:
    """Return the rows of one block of a layer, for each declared array."""
    info, name = contents.manifest.splits[key.split], f"layer_{layer:02d}"
    rows = slice(key.block * info.block_rows, (key.block + 1) * info.block_rows)
    return {kind: contents.stored[f"{key.split}/{name}/{kind}"][key.view, rows] for kind in info.layers[name]}


def folder_of(path: Path) -> Path:
    """Return the folder with the block files, journal and lock of a store."""
    return local(store_files(path).folder)


def root_of(path: Path) -> Path:
    """Return the file that holds the manifest."""
    return local(store_files(path).root)


def local(place: object) -> Path:
    """Return a place on this machine: a store at a path has no other."""
    assert isinstance(place, Path), place
    return place


def block_path(path: Path, array: str, view: int, block: int) -> Path:
    """Return the file of one block of an array, as the store's format names it for an array of `make_contents`."""
    spec = array_spec(make_manifest("int8", COUNTS, BLOCK), "train", "layer_00", array.rpartition("/")[2])
    return folder_of(path) / store_files(path).block_name(replace(spec, name=array), view, block)


def tree(path: Path) -> dict[str, bytes | None]:
    """Return the content of every file that depends only on the inputs, and the folders."""
    found = [path, *path.rglob("*"), *folder_of(path).rglob("*")]
    return {
        str(entry.relative_to(path.parent)): entry.read_bytes() if entry.is_file() else None
        for entry in found
        if entry.exists() and entry.name not in ("journal.jsonl", ".lock")
    }


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a store's journal."""
    journal = folder_of(path) / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [json.loads(line) for line in lines]


def stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and time of each recorded file, which change if it is written again."""
    names = read_records(folder_of(path)).keys() - {"manifest"}
    files = [file for name in names if (file := folder_of(path) / name).exists()]
    return {str(file.relative_to(folder_of(path))): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder in memory, if the system has one: fsync is free there."""
    shm = Path("/dev/shm")
    with TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


def says_complete(path: Path) -> bool:
    """Whether there is a root that says so."""
    try:
        return open_store(path).manifest.complete
    except (FileNotFoundError, StoreError):
        return False
