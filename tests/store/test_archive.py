"""A compressed store holds the same numbers, opens and verifies, and cannot be written."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tokenprobe.errors import StoreError
from tokenprobe.store import Store, open_store, open_writer
from tokenprobe.store.archive import CHUNK_BYTES, chunk_rows
from tokenprobe.store.array_spec import ArraySpec, array_specs
from tokenprobe.store.describe import describe
from tokenprobe.store.export import export_store, select
from tokenprobe.store.library import CompressedReader
from tokenprobe.store.quantize import token_type
from tokenprobe.store.verify import verify
from tokenprobe.testing.store_kit import DTYPES, LAYERS, ROWS, VIEWS, make_contents, tree, write

ROW_NUMBERS = [9, 2, 10, 3, 3]


def archived(path: Path, out: Path, **chosen: Any) -> Store:
    store = open_store(path)
    export_store(store, out, "zarr", select(store, "zarr", **chosen))
    return open_store(out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_and_the_reader_give_the_same_numbers(place: Callable[[str], Path], dtype: str) -> None:
    contents = make_contents(dtype)
    path = write(place("plain"), contents)
    out = path.parent / "archive.zarr"
    store, plain = archived(path, out), open_store(path)
    assert isinstance(store.arrays, CompressedReader)
    assert store.manifest == plain.manifest
    group: Any = zarr.open_group(out, mode="r")
    for name, values in contents.stored.items():
        np.testing.assert_array_equal(group[name][...], values, strict=True)
    for split, n_views in VIEWS.items():
        assert store[split].ids == contents.ids(split)
        np.testing.assert_array_equal(store[split].labels, contents.stored[f"{split}/labels"])
        rows = ROW_NUMBERS if split == "train" else [2, 0]
        for layer in LAYERS:
            for kind in ROWS:
                asked: dict[str, Any] = {"view": n_views - 1, "kind": kind}
                for given in (rows, None):
                    found = store[split].tokens(layer, given, **asked)
                    np.testing.assert_array_equal(found, plain[split].tokens(layer, given, **asked), strict=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_an_archive_is_verified_and_described_as_a_store(tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "out.zarr"
    archived(write(tmp_path / "a.zarr", make_contents(dtype)), out)
    assert verify(out) == []
    assert describe(open_store(out))[-1].endswith("complete: every file is there; probe verify reads and checks them")
    block = out / "train/layer_03/patch/c.1.2.0.0"
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 1
    block.write_bytes(data)
    (out / "test/ids/c.0").unlink()
    assert [(problem.file, problem.kind) for problem in verify(out)] == [
        ("test/ids/c.0", "missing"),
        ("train/layer_03/patch/c.1.2.0.0", "damaged"),
    ]
    assert "damaged: 1 of" in describe(open_store(out))[-1]


def test_the_bytes_say_how_much_was_saved(tmp_path: Path) -> None:
    contents = make_contents("float16", counts={"train": 1000, "test": 3}, block_rows=128)
    for name, values in contents.stored.items():
        if "layer" in name:
            values[:] = 1
    path = write(tmp_path / "a.zarr", contents, batch=128)
    out = tmp_path / "out.zarr"
    store = archived(path, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.name not in ("journal.jsonl", "zarr.json"))
    assert size < 0.5 * sum(spec.n_bytes for spec in array_specs(store.manifest))
    shown = next(line for line in describe(store) if line.startswith("bytes"))
    assert float(shown.split(", ")[1].split()[0]) < 0.6


def test_part_of_a_store_keeps_its_fingerprints(tmp_path: Path) -> None:
    contents = make_contents("int8")
    path = write(tmp_path / "a.h5", contents)
    part = archived(path, tmp_path / "out.zarr", layers="-1", splits=["train"], tokens=["patch"])
    whole = open_store(path).manifest
    assert (part.splits, part.layers, list(part.manifest.layers)) == (["train"], [3], ["layer_03"])
    assert part.manifest.splits["train"].layers == {"layer_03": ["patch", "patch_scale"]}
    assert part.manifest.complete
    for view in (0, 1):
        assert part.manifest.fingerprint("train", 3, view) == whole.fingerprint("train", 3, view)
    names = {str(file.parent.relative_to(tmp_path / "out.zarr")) for file in (tmp_path / "out.zarr").rglob("c.*")}
    assert names == {
        "train/ids", "train/labels", "train/layer_03/patch", "train/layer_03/patch_scale",
        "train/layer_03/patch_channels",
    }  # fmt: skip


def test_an_archive_has_the_same_bytes_from_either_format_and_from_an_archive(tmp_path: Path) -> None:
    contents = make_contents()
    made = {}
    for source in ("a.zarr", "a.h5", "first/out.zarr"):
        out = tmp_path / ("first" if source == "a.zarr" else source.replace("/", "-") + "-out") / "out.zarr"
        archived(tmp_path / source if "/" in source else write(tmp_path / source, contents), out)
        made[source] = tree(out)
    assert made["a.zarr"] == made["a.h5"] == made["first/out.zarr"]


def test_an_archive_is_not_written_to(tmp_path: Path) -> None:
    contents = make_contents("int8")
    out = tmp_path / "out.zarr"
    archived(write(tmp_path / "a.zarr", contents), out)
    before = tree(out)
    with (
        pytest.raises(
            StoreError, match=r"out\.zarr' is compressed: it can be read, but not extended; give another path"
        ),
        open_writer(out, contents.manifest),
    ):
        raise AssertionError("it opened")
    assert tree(out) == before


@pytest.mark.parametrize(
    ("block_rows", "row", "dtype", "rows"),
    [
        (384, (196, 768), "float16", 3),  # a ViT-B/16: 3 rows are 0.86 MiB, and divide a block
        (384, (196, 768), "int8", 6),
        (384, (768,), "float32", 192),
        (7, (4, 6), "float16", 7),
        (64, (4096, 1024), "float32", 1),
        (449, (49, 128), "float16", 1),  # a prime
    ],
)
def test_chunks_divide_blocks_and_are_small(block_rows: int, row: tuple[int, ...], dtype: str, rows: int) -> None:
    spec = ArraySpec("train/layer_00/patch", 1, 10_000, block_rows, row, token_type(dtype))
    assert chunk_rows(spec) == rows
    assert rows == 1 or rows * spec.row_bytes <= CHUNK_BYTES


def test_a_few_rows_are_read_without_the_rest_of_their_block(tmp_path: Path, write_store: Callable[..., Store]) -> None:
    """Blocks of 8 MiB of noise, chunks of 1 MiB: two rows side by side take one chunk from the disk."""
    patch = np.random.default_rng(0).standard_normal((128, 64, 256)).astype(np.float32)
    tokens = {"train": {0: {"patch": patch, "mean": patch.mean(1)}}}
    write_store(
        tmp_path / "a.zarr", tokens, {"train": np.zeros(128, int)}, grid=(8, 8), block_rows=128, dtype="float32"
    )
    store = archived(tmp_path / "a.zarr", tmp_path / "out.zarr")
    size = (tmp_path / "out.zarr/train/layer_00/patch/c.0.0.0.0").stat().st_size
    assert size > 0.8 * patch.nbytes
    store["train"].tokens(0, [0])
    before = n_read()
    found = store["train"].tokens(0, [80, 81])
    assert n_read() - before < size / 4
    np.testing.assert_array_equal(found, patch[[80, 81]])


def n_read() -> int:
    """Return how many bytes this process has read from files."""
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])
