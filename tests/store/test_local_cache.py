"""Blocks of a store at an address are fetched once, checked, and read from the disk afterwards."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from tokenprobe.errors import InputError, StoreError
from tokenprobe.store import Store, open_store
from tokenprobe.store.journal import read_records
from tokenprobe.store.local_cache import CachedFiles, open_cached
from tokenprobe.store.remote import RemoteFiles
from tokenprobe.store.temporaries import temporary_of
from tokenprobe.testing.store_kit import Contents, make_contents, write

from .proxy import Proxy


def some() -> Contents:
    return make_contents().part({"train": {"layer_00": ["mean", "patch"]}}, views=1, augmentation=None)


def read(store: Store, rows: list[int] | None = None) -> np.ndarray:
    return store["train"].tokens(0, rows)


def test_blocks_are_fetched_once_and_outlive_the_process(bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    contents = some()
    address, wanted = write(f"{bucket}/s.zarr", contents), contents.returned["train/layer_00/patch"][0]
    store = open_cached(address, tmp_path)
    np.testing.assert_array_equal(read(store, [9, 0, 9]), wanted[[9, 0, 9]], strict=True)
    np.testing.assert_array_equal(read(store), wanted, strict=True)
    fetched = [path for method, path in proxy.asked if method == "GET" and "patch/c." in path]
    assert len(fetched) == len(set(fetched)) == 3
    for opened in (store, open_cached(address, tmp_path)):
        proxy.asked.clear()
        np.testing.assert_array_equal(read(opened), wanted, strict=True)
        assert not any("/c." in path for _, path in proxy.asked)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    hashes = {record.xxh3 for name, record in read_records(RemoteFiles(address).folder).items() if "patch/c" in name}
    assert {file.name.rpartition(".")[2] for file in files} == hashes and len(files) == 3


def test_a_damaged_block_is_not_kept(bucket: str, tmp_path: Path) -> None:
    address = write(f"{bucket}/s.zarr", some())
    block = RemoteFiles(address).folder / "train/layer_00/patch/c.0.1.0.0"
    block.write(bytes(len(block.read_bytes())))
    store = open_cached(address, tmp_path)
    read(store, [0, 10])
    with pytest.raises(
        StoreError, match=r"c\.0\.1\.0\.0' is damaged: its bytes differ from those that were written; m"
    ):
        read(store)
    block.write(b"1")
    with pytest.raises(StoreError, match=r"c\.0\.1\.0\.0' is too short: it is damaged"):
        read(store)
    block.unlink()
    with pytest.raises(StoreError, match=r"^block file 's3://.*c\.0\.1\.0\.0' is missing"):
        read(store)
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 2


def test_a_store_made_anew_has_other_files(bucket: str, tmp_path: Path) -> None:
    address = write(f"{bucket}/s.zarr", some())
    read(open_cached(address, tmp_path))
    write(address, some(), overwrite=True)
    read(open_cached(address, tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_store_without_a_journal_that_is_replaced_has_other_files(tmp_path: Path) -> None:
    """Both stores have the same shapes. The second was made with other weights."""
    address, old = f"memory://{uuid4().hex}/s.zarr", some()
    recipe = replace(old.manifest.recipe, weights="1" * 64)
    new = replace(
        old,
        manifest=replace(old.manifest, recipe=recipe),
        stored={name: -values if "layer_00" in name else values for name, values in old.stored.items()},
    )
    for contents in (old, new, old):
        write(address, contents, overwrite=True)
        (RemoteFiles(address).folder / "journal.jsonl").unlink()
        for _ in range(2):
            stored = contents.stored["train/layer_00/patch"][0]
            np.testing.assert_array_equal(read(open_cached(address, tmp_path)), stored)
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 6


def test_what_a_killed_process_left_is_removed(bucket: str, tmp_path: Path) -> None:
    address = write(f"{bucket}/s.zarr", some())
    store = open_cached(address, tmp_path)
    read(store)
    assert isinstance(store.arrays, CachedFiles)
    left = temporary_of(store.arrays.cache / "train/layer_00/patch/c.0.0.0.0.x", "00000000-1-00000000")
    left.write_bytes(b"1")
    old = left.with_name("c.tmp")
    old.write_bytes(b"1")
    open_cached(address, tmp_path)
    assert left.exists() and not old.exists()  # the first may belong to a process elsewhere, and is young


def test_only_plain_blocks_at_addresses_are_kept(tmp_path: Path) -> None:
    local = write(tmp_path / "s", some())
    assert type(open_cached(local, tmp_path / "c").arrays) is type(open_store(local).arrays)
    assert type(open_cached(f"file://{local}", None).arrays) is RemoteFiles
    with pytest.raises(InputError, match=r"^'s3://b/c' is an address, and only a store can be there; give a path"):
        open_cached(f"file://{local}", "s3://b/c")
    assert not (tmp_path / "c").exists()
