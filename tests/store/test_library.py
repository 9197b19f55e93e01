"""Stores that only zarr can read, compressed or at an address, give the same numbers as the plain store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.runtime.address import is_address
from tokenprobe.store import open_store
from tokenprobe.store.describe import describe
from tokenprobe.store.formats import store_files
from tokenprobe.store.library import CompressedReader, LibraryReader
from tokenprobe.store.objects import Bucket, ObjectPath
from tokenprobe.store.remote import RemoteFiles
from tokenprobe.store.zarr_store import ZarrFiles
from tokenprobe.testing.store_kit import DTYPES, make_contents, write

ROWS = [[10], [0, 1, 2, 7, 8], list(range(11))[::-1], [3, 3, 10, 0], []]
Copy = Callable[[Path, str], str]


@pytest.fixture(params=["compressed", "memory"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    """Give a function that copies a plain store, array by array, and returns the new path."""

    def make(path: Path, name: str) -> str:
        compressed = request.param == "compressed"
        target = str(tmp_path / f"{name}-copy") if compressed else f"memory://{tmp_path.name}/{name}"
        copy_store(path, target, {"compressors": ZstdCodec(level=1)} if compressed else {"compressors": None})
        return target

    return make


def zarr_place(target: str) -> Any:
    """Return a path, or an address in memory, as zarr opens it."""
    return zarr.storage.ObjectStore(Bucket(target).store) if is_address(target) else target


def copy_store(path: Path, target: str, how: dict[str, Any]) -> None:
    """Copy a store with zarr."""
    source: Any = zarr.open_group(path, mode="r")
    made = zarr.open_group(zarr_place(target), mode="w")
    made.update_attributes(dict(source.attrs))
    for split in open_store(path).splits:
        for name, node in source[split].members(max_depth=None):
            if isinstance(node, zarr.Array):
                layout = {
                    "shape": node.shape,
                    "chunks": node.chunks,
                    "dtype": node.dtype,
                    "fill_value": node.fill_value,
                }
                array = made.create_array(f"{split}/{name}", **layout, attributes=dict(node.attrs), **how)
                array[...] = node[...]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_numbers_are_those_of_the_plain_store(tmp_path: Path, copy: Copy, dtype: str) -> None:
    contents = make_contents(dtype)
    plain = open_store(write(tmp_path / "plain", contents))
    store = open_store(copy(Path(plain.path), "s"))
    assert isinstance(store.arrays, LibraryReader)
    assert store.manifest == plain.manifest
    for name in contents.returned:
        split, layer, kind = name.split("/")
        for view in range(plain.manifest.splits[split].views):
            for rows in ROWS:
                asked = [row % len(plain[split]) for row in rows]
                for asked_type in (None, plain[split].stored_dtype(kind)):
                    read = store[split].tokens(int(layer[-2:]), asked, kind=kind, view=view, dtype=asked_type)
                    wanted = plain[split].tokens(int(layer[-2:]), asked, kind=kind, view=view, dtype=asked_type)
                    np.testing.assert_array_equal(read, wanted, strict=True, err_msg=f"{name} {view} {rows}")
    assert store["train"].ids == plain["train"].ids
    np.testing.assert_array_equal(store["train"].labels, plain["train"].labels, strict=True)


def test_a_missing_chunk_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "plain", make_contents())
    copy_store(tmp_path / "plain", str(tmp_path / "copy"), {"compressors": ZstdCodec(level=1)})
    lost = tmp_path / "copy/train/layer_00/patch/c/1/1/0/0"
    lost.unlink()
    split = open_store(tmp_path / "copy")["train"]
    assert len(split.tokens(0, [0, 3, 8], view=1)) == 3
    message = r"^block file 'train/layer_00/patch/c/1/1/0/0' of '.*copy' is missing"
    for rows in ([5], None):
        with pytest.raises(StoreError, match=message):
            split.tokens(0, rows, view=1)


def test_a_missing_chunk_at_an_address_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "plain", make_contents())
    address = f"memory://{tmp_path.name}/lost"
    copy_store(tmp_path / "plain", address, {"compressors": None})
    (ObjectPath(Bucket(address)) / "train/layer_00/mean/c/0/2/0").unlink()
    with pytest.raises(StoreError, match=r"^block file 'train/layer_00/mean/c/0/2/0' of 'memory://.*' is missing"):
        open_store(address)["train"].tokens(0, kind="mean")


@pytest.mark.parametrize("lost", ["labels", "ids"])
def test_missing_labels_and_ids_are_an_error(tmp_path: Path, copy: Copy, lost: str) -> None:
    write(tmp_path / "plain", make_contents())
    address = copy(tmp_path / "plain", "s")
    group = zarr.open_group(zarr_place(address), mode="r+")
    sync(group.store_path.store.delete(f"{group.path}/train/{lost}/c/0".lstrip("/")))
    with pytest.raises(StoreError, match=rf"^block file 'train/{lost}/c/0' of '.*' is missing$"):
        getattr(open_store(address)["train"], lost)
    del group[f"train/{lost}"]
    with pytest.raises(StoreError, match=rf"^array 'train/{lost}' of '.*' is missing$"):
        getattr(open_store(address)["train"], lost)


def test_what_is_asked_wrongly_is_refused_alike(tmp_path: Path, copy: Copy) -> None:
    write(tmp_path / "plain", make_contents())
    split = open_store(copy(tmp_path / "plain", "s"))["train"]
    for ask in ({"layer": 1}, {"layer": 0, "rows": [11]}, {"layer": 0, "view": 2}, {"layer": 0, "kind": "cls"}):
        with pytest.raises(InputError, match=r"unknown layer|rows 11 to 11|view 2|unknown array"):
            split.tokens(**ask)
    split.check_complete([0, 3])


def test_nothing_and_something_else_are_told_apart_from_a_store() -> None:
    with pytest.raises(MissingError, match=r"^no store at 'memory://none/at/all'; check the address, or make"):
        open_store("memory://none/at/all")
    zarr.open_group(zarr_place("memory://other/group"), mode="w")
    with pytest.raises(StoreError, match=r"^'memory://other/group' is not a token store: it has no manifest"):
        open_store("memory://other/group")
    with pytest.raises(InputError, match=r"^unknown kind of address 'nosuch://a/b'; known: s3://"):
        open_store("nosuch://a/b")


def test_a_description_says_how_it_is_read(tmp_path: Path, copy: Copy) -> None:
    write(tmp_path / "plain", make_contents())
    shown = "\n".join(describe(open_store(copy(tmp_path / "plain", "s"))))
    assert ": read through the zarr library" in shown
    assert "complete" in shown


def test_addresses_and_compression_are_recognised(tmp_path: Path) -> None:
    assert is_address("s3://bucket/a.zarr") and not is_address("/data/a.zarr") and not is_address("a.zarr")
    plain = write(tmp_path / "plain", make_contents())
    copy_store(plain, str(tmp_path / "copy"), {"compressors": ZstdCodec(level=1)})
    paths = (plain, tmp_path / "copy", tmp_path / "none")
    assert [store_files(path).is_compressed() for path in paths] == [False, True, False]
    kinds = [type(open_store(path).arrays) for path in (plain, tmp_path / "copy", f"file://{plain}")]
    assert kinds == [ZarrFiles, CompressedReader, RemoteFiles]
