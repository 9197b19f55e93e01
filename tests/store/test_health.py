"""Counting the files of a store on the disk that its journal records."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.store import open_store
from tokenprobe.store.health import Blocks, take_stock
from tokenprobe.testing.store_kit import block_path, blocks, folder_of, make_contents, write, write_some


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_whole_store_lacks_nothing(place: Callable[[str], Path], dtype: str) -> None:
    path = write(place("whole"), make_contents(dtype))
    stock = take_stock(open_store(path))
    files = [file for file in folder_of(path).rglob("*") if file.is_file()]
    counted = [file for file in files if file.name not in ("journal.jsonl", ".lock", path.name)]
    root = [file for file in counted if file == path / "zarr.json"]
    assert stock is not None
    assert stock.n_files == len(counted) - len(root)
    assert stock.n_bytes == sum(file.stat().st_size for file in counted) - sum(file.stat().st_size for file in root)
    assert (stock.n_missing, stock.unfinished) == (0, {})


def test_blocks_are_counted_over_views_and_by_layer(place: Callable[[str], Path]) -> None:
    contents = make_contents()
    first = [key for key in blocks(contents.manifest) if key.split == "test" or key.view == 0]
    path = write_some(place("part"), contents, first)
    block_path(path, "train/layer_03/mean", 0, 1).unlink()
    with open(block_path(path, "test/layer_00/prefix", 0, 0), "ab") as file:
        file.write(b"more")
    stock = take_stock(open_store(path))
    assert stock is not None
    assert stock.unfinished == {
        ("train", 0): Blocks(3, 6),
        ("train", 3): Blocks(2, 6),
        ("test", 0): Blocks(0, 1),
    }
    assert stock.n_missing == 2 * 3 * 3 + 2  # the blocks of view 1: 2 layers, 3 blocks, 3 arrays


def test_nothing_is_known_without_a_journal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_contents())
    assert take_stock(open_store(f"file://{path}")) == take_stock(open_store(path))
    (path / "journal.jsonl").unlink()
    assert take_stock(open_store(f"file://{path}")) is None
    assert take_stock(open_store(path)) is None
