"""A store at an address holds the bytes of a local one, and reads ask for little more than is wanted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import obstore
import pytest
from zarr.codecs import ZstdCodec

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.store import Store, array_reader, extents, open_store
from tokenprobe.store.describe import describe
from tokenprobe.store.export import export_store, select
from tokenprobe.store.objects import Bucket, ObjectPath
from tokenprobe.store.remote import RemoteFiles, copy_rows, runs_of
from tokenprobe.store.verify import verify
from tokenprobe.testing.store_kit import Contents, blocks, make_contents, write, write_some

from .proxy import Proxy
from .servers import SERVICES, on_every_service
from .test_library import copy_store

KEPT = ("journal.jsonl", "journal.d", ".lock")


def tree_at(address: str) -> dict[str, bytes]:
    """Return the content of every object that depends only on the inputs."""
    bucket = Bucket(address)
    return {
        name: bytes(obstore.get(bucket.store, name).bytes())
        for name in bucket.sizes()
        if name.partition("/")[0] not in KEPT
    }


def tree_of(path: Path) -> dict[str, bytes]:
    """Return the same of a local store."""
    names = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in names.items() if name not in KEPT}


def assert_same_numbers(store: Store, local: Store) -> None:
    rng = np.random.default_rng(0)
    for split in local.splits:
        assert store[split].ids == local[split].ids
        np.testing.assert_array_equal(store[split].labels, local[split].labels)
        for layer, kind in ((0, "mean"), (3, "patch")):
            for rows in (None, rng.integers(0, len(local[split]), 5)):
                view = local[split].info.views - 1
                read, wanted = (each[split].tokens(layer, rows, kind=kind, view=view) for each in (store, local))
                np.testing.assert_array_equal(read, wanted, strict=True)


@pytest.mark.parametrize(
    ("service", "dtype"), [("s3", "bfloat16"), *((name, "int8") for name in SERVICES)], indirect=["service"]
)
def test_a_store_at_an_address_has_the_bytes_of_a_local_one(tmp_path: Path, bucket: str, dtype: str) -> None:
    contents = make_contents(dtype, counts={"train": 6, "test": 2})
    address, local = write(f"{bucket}/a b.zarr", contents), write(tmp_path / "s", contents)
    assert tree_at(address) == tree_of(local)
    assert set(Bucket(address).sizes()) - tree_at(address).keys() == {"journal.jsonl"}
    assert verify(address) == []
    store = open_store(address)
    assert type(store.arrays) is RemoteFiles
    assert_same_numbers(store, open_store(local))
    assert "complete: every file is there" in "\n".join(describe(store))


@on_every_service
def test_a_store_is_extended_and_made_anew(tmp_path: Path, bucket: str) -> None:
    contents, address = small(), f"{bucket}/s.zarr"
    write(address, contents.part({"test": {"layer_00": ["mean"]}}))
    opened = open_store(address)
    write(address, contents)
    assert tree_at(address) == tree_of(write(tmp_path / "s", contents))
    opened.check_unchanged()
    recipe = replace(contents.manifest.recipe, weights="1" * 64)
    other = replace(contents, manifest=replace(contents.manifest, recipe=recipe))
    with pytest.raises(StoreError, match="weights"):
        write(address, other)
    write(address, other, overwrite=True)
    assert tree_at(address) == tree_of(write(tmp_path / "other", other))
    with pytest.raises(StoreError, match=r"was made anew, .*moved or removed"):
        opened.check_unchanged()


def test_an_unfinished_store_says_so_and_is_gone_on_with(tmp_path: Path, bucket: str) -> None:
    contents = make_contents().part({"train": {"layer_03": ["mean"]}}, views=1, augmentation=None)
    address = write_some(f"{bucket}/s.zarr", contents, blocks(contents.manifest)[:1])
    assert "not complete" in "\n".join(describe(open_store(address)))
    assert {problem.kind for problem in verify(address)} == {"unfinished"}
    with pytest.raises(StoreError, match=r"^train/layer_03/mean of '\w+://.*' is not complete"):
        open_store(address)["train"].check_complete([3])
    write(address, contents)
    assert tree_at(address) == tree_of(write(tmp_path / "s", contents))


@on_every_service
def test_damage_is_found_and_said(bucket: str) -> None:
    address = write(f"{bucket}/s.zarr", small())
    folder = RemoteFiles(address).folder
    lost, short, other = (folder / f"test/{name}" for name in ("layer_00/mean/c.0.0.0", "layer_03/mean/c.0.0.0", "x"))
    lost.unlink()
    short.write(short.read_bytes()[:50])
    other.write(b"1")
    found = {problem.file: problem.kind for problem in verify(address)}
    assert found == {
        "test/layer_00/mean/c.0.0.0": "missing",
        "test/layer_03/mean/c.0.0.0": "damaged",
        "test/x": "foreign",
    }
    split = open_store(address)["test"]
    with pytest.raises(StoreError, match=r"^block file '\w+://.*/layer_00/mean/c\.0\.0\.0' is missing; run the same"):
        split.tokens(0, kind="mean")
    with pytest.raises(StoreError, match=r"layer_03/mean/c\.0\.0\.0' ends at byte \d+, short of \d+: it is damaged"):
        split.tokens(3, kind="mean")


def test_an_export_reads_an_address_and_a_compressed_copy_there_is_read_too(tmp_path: Path, bucket: str) -> None:
    local = open_store(write(tmp_path / "s", make_contents()))
    source = open_store(write(f"{bucket}/s.zarr", make_contents()))
    export_store(source, tmp_path / "e.zarr", "zarr", select(source, "zarr"))
    copied = ObjectPath(Bucket(f"{bucket}/copy.zarr"))
    for name, content in tree_of(tmp_path / "e.zarr").items():
        (copied / name).write(content)
    for store in (open_store(tmp_path / "e.zarr"), open_store(f"{bucket}/copy.zarr")):
        assert_same_numbers(store, local)


@pytest.mark.parametrize("rows", [None, [0, 39, 5, 12, 28, 33]])
def test_compressed_chunks_are_fetched_once_per_read(
    tmp_path: Path, bucket: str, proxy: Proxy, rows: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((extents, "LEAST_BYTES"), (extents, "JOB_BYTES"), (array_reader, "CONVERTED_BYTES")):
        monkeypatch.setattr(module, name, 300)  # a few of these rows, as if they had many bytes
    contents = make_contents("float32", counts={"train": 40}, block_rows=20)
    local = write(tmp_path / "s", contents.part({"train": {"layer_00": ["patch"]}}, views=1, augmentation=None))
    copy_store(local, f"{bucket}/c.zarr", {"compressors": ZstdCodec(level=1)})
    split, plain = open_store(f"{bucket}/c.zarr")["train"], open_store(local)["train"]
    for dtype in (np.float32, np.float16):
        proxy.asked.clear()
        read, wanted = (each.tokens(0, rows, dtype=dtype) for each in (split, plain))
        np.testing.assert_array_equal(read, wanted)
        fetched = [path.rpartition("patch/")[2] for method, path in proxy.asked if method == "GET" and "/c/" in path]
        assert sorted(fetched) == ["c/0/0/0/0", "c/0/1/0/0"]


def test_a_file_address_is_read_as_objects(tmp_path: Path) -> None:
    local = write(tmp_path / "s", make_contents())
    store = open_store(f"file://{local}/")
    assert (type(store.arrays), store.path) == (RemoteFiles, f"file://{local}")
    assert_same_numbers(store, open_store(local))
    assert verify(f"file://{local}") == []


def test_random_rows_ask_for_little_more_than_their_bytes(bucket: str, proxy: Proxy) -> None:
    contents = make_contents("float32", counts={"train": 400}, block_rows=50)
    address = write(f"{bucket}/s.zarr", contents.part({"train": {"layer_00": ["patch"]}}, views=1, augmentation=None))
    rows, split = np.random.default_rng(1).choice(400, 64, replace=False), open_store(address)["train"]
    proxy.n_bytes = 0
    read = split.tokens(0, rows)
    assert read.nbytes <= proxy.n_bytes <= 1.2 * read.nbytes
    proxy.n_bytes = 0
    assert split.tokens(0).nbytes == proxy.n_bytes


@on_every_service
def test_what_cannot_be_at_an_address_is_refused(bucket: str) -> None:
    with pytest.raises(InputError, match=r"a\.h5' names an HDF5 store, and only Zarr stores can be at an address"):
        write(f"{bucket}/a.h5", small())
    with pytest.raises(MissingError, match=r"^no store at '\w+://.*/none\.zarr'; check the address, or make"):
        open_store(f"{bucket}/none.zarr")
    (ObjectPath(Bucket(f"{bucket}/other")) / "file").write(b"1")
    with pytest.raises(StoreError, match=r"/other' exists and is not a token store; give another path"):
        write(f"{bucket}/other", small())


def small() -> Contents:
    """One split, two layers of means: few requests."""
    return make_contents().part({"test": {"layer_00": ["mean"], "layer_03": ["mean"]}})


@pytest.mark.parametrize("n_rows", [1, 7, 60])
def test_runs_cover_the_rows_and_little_more(n_rows: int) -> None:
    rng = np.random.default_rng(n_rows)
    for row_bytes in (1, 1000, 2**18, 2**20):
        rows = np.sort(rng.integers(0, 100, n_rows))
        runs = runs_of(rows, row_bytes)
        read = [row for first, stop in runs for row in range(first, stop)]
        assert read == sorted(set(read)) and set(rows.tolist()) <= set(read)
        assert len(read) <= 1.2 * len(set(rows.tolist()))
        if row_bytes > 2**18:
            assert set(read) == set(rows.tolist())


@pytest.mark.parametrize("row_bytes", [3, 2**14])
@pytest.mark.parametrize("places", [[0, 1, 2], [2, 0, 1], [1, 3, 4]])
def test_rows_are_copied_to_their_places(row_bytes: int, places: list[int]) -> None:
    values = np.random.default_rng(0).integers(0, 255, (5, row_bytes), np.uint8)
    for rows in ([1, 2, 3], [0, 3, 3]):
        out, wanted = np.zeros((5, row_bytes), np.uint8), np.zeros((5, row_bytes), np.uint8)
        copy_rows(values, np.array(rows), out, np.array(places))
        for row, place in zip(rows, places, strict=True):
            wanted[place] = values[row]
        np.testing.assert_array_equal(out, wanted)
