"""A store at an address holds the bytes of a local one, and reads ask for little more than is wanted."""

from pathlib import Path

import numpy as np
import obstore
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.objects import Bucket
from tokenprobe.store.remote import RemoteFiles, copy_rows, runs_of
from tokenprobe.store.verify import verify

from .kit import DTYPES, Contents, make_contents, write
from .s3 import Proxy


def tree_at(address: str) -> dict[str, bytes]:
    """Return the content of every object that depends only on the inputs."""
    bucket = Bucket(address)
    return {name: bytes(obstore.get(bucket.store, name).bytes()) for name in bucket.sizes() if "journal" not in name}


def tree_of(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("journal.jsonl", ".lock")
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_store_at_an_address_has_the_bytes_of_a_local_one(tmp_path: Path, bucket: str, dtype: str) -> None:
    contents = make_contents(dtype)
    address = str(write(f"{bucket}/a b.zarr", contents))
    assert tree_at(address) == tree_of(write(tmp_path / "s", contents))
    assert sorted(name for name in Bucket(address).sizes() if "journal" in name) == ["journal.jsonl"]
    assert verify(address) == []
    check_numbers(address, contents)


def check_numbers(address: str, contents: Contents) -> None:
    store = open_store(address)
    assert isinstance(store.arrays, RemoteFiles)
    for name, values in contents.returned.items():
        split, layer, kind = name.split("/")
        for view, n in enumerate([len(values[0])] * len(values)):
            for rows in ([], [n - 1], [0, 2, 0], list(range(n))[::-1], None):
                read = store[split].tokens(int(layer[-2:]), rows, kind=kind, view=view)
                wanted = values[view] if rows is None else values[view][np.asarray(rows, int)]
                np.testing.assert_array_equal(read, wanted, strict=True, err_msg=f"{name} {view} {rows}")
    for split in store.splits:
        assert store[split].ids == contents.ids(split)
        np.testing.assert_array_equal(store[split].labels, contents.stored[f"{split}/labels"])
