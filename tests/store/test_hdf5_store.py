"""HDF5 stores pass the tests of every format, and h5py can read them."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import hdf5_store, open_store
from tokenprobe.store.array_spec import ArraySpec
from tokenprobe.store.hdf5_store import Hdf5Files
from tokenprobe.store.quantize import DTYPES
from tokenprobe.testing.store_kit import COUNTS, block_path, make_contents, write
from tokenprobe.testing.stores import StoreConformance


class TestHdf5(StoreConformance):
    suffix = ".h5"

    @contextmanager
    def library(self, path: Path) -> Iterator[Mapping[str, Any]]:
        with h5py.File(path) as opened:
            yield opened

    def attributes(self, opened: Any) -> dict[str, Any]:
        return json.loads(opened.attrs["manifest"])

    def make_foreign(self, path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(3)


def test_the_tree_is_that_of_a_zarr_store(tmp_path: Path) -> None:
    import zarr

    contents = make_contents("int8")
    group = zarr.open_group(write(tmp_path / "s.zarr", contents), mode="r")
    arrays = {f"{split}/{name}": array.shape for split in COUNTS for name, array in members(group[split])}
    with h5py.File(write(tmp_path / "s.h5", contents)) as file:
        assert {f"{split}/{name}": array.shape for split in file for name, array in members(file[split])} == arrays


def members(group: Any) -> list[tuple[str, Any]]:
    """Return (path, array) for everything in a split."""
    direct = [(name, group[name]) for name in ("ids", "labels")]
    assert {*group} - {"ids", "labels"} == {"layer_00", "layer_03"}
    return direct + [
        (f"{layer}/{kind}", group[layer][kind]) for layer in ("layer_00", "layer_03") for kind in group[layer]
    ]


def test_a_store_that_the_caller_has_open_in_h5py_opens_and_the_other_way_round(tmp_path: Path) -> None:
    contents = make_contents()
    path = write(tmp_path / "s.h5", contents)
    with h5py.File(path) as file:
        labels = file["train/labels"][...]  # a file of its own
        store = open_store(path)
        np.testing.assert_array_equal(store["train"].labels, labels)
        np.testing.assert_array_equal(store["train"].tokens(0), file["train/layer_00/patch"][0])
    with h5py.File(path) as file:
        assert store["train"].ids == [key.decode() for key in file["train/ids"]]


def test_each_block_is_a_file_of_its_own_with_its_rows_last(tmp_path: Path) -> None:
    contents = make_contents("float32")
    path = write(tmp_path / "s.h5", contents)
    last = block_path(path, "train/layer_00/patch", 1, 2)
    with h5py.File(last) as file:
        assert list(file) == ["rows"]
        assert file["rows"].id.get_offset() + file["rows"].nbytes == last.stat().st_size
        np.testing.assert_array_equal(file["rows"][:3], contents.stored["train/layer_00/patch"][1, 8:])
        assert np.isnan(file["rows"][3:]).all()
    with h5py.File(
        block_path(write(tmp_path / "b.h5", make_contents("bfloat16")), "train/layer_00/patch", 0, 0)
    ) as file:
        assert dict(file["rows"].attrs) == {"bfloat16": True}


SHAPES = [(1, 1), (4, 5), (1, 1023), (4, 6, 5), (1, 1, 2048), (64, 196, 768), (384, 257, 1024), (7, 1)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_begin_at_byte_4096_or_at_2048_where_they_fill_less(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    spec = ArraySpec("train/layer_00/patch", 1, shape[0], shape[0], shape[1:], DTYPES[dtype])
    files = Hdf5Files(tmp_path / "s.h5")
    header = files.block_header(spec)
    n_bytes = prod(shape) * spec.type.stored.itemsize
    assert len(header) == files.block_offset(spec) == (4096 if n_bytes >= 4096 else 2048)
    with open(tmp_path / "block.h5", "wb") as file:
        file.write(header)
        file.truncate(len(header) + n_bytes)
    with h5py.File(tmp_path / "block.h5") as file:
        assert (file["rows"].shape, file["rows"].dtype, file["rows"].chunks) == (shape, spec.type.stored, None)
        assert file["rows"].id.get_offset() == len(header)


def test_a_header_holds_no_time(tmp_path: Path) -> None:
    spec = ArraySpec("train/layer_00/patch", 1, 4, 4, (6, 5), DTYPES["bfloat16"])
    headers = []
    for _ in range(2):
        hdf5_store._header.cache_clear()
        headers.append(Hdf5Files(tmp_path / "s.h5").block_header(spec))
        time.sleep(1 - time.time() % 1)
    assert headers[0] == headers[1]


def test_an_hdf5_file_without_a_manifest_is_not_a_store(tmp_path: Path) -> None:
    for content in (None, "{}", '{"format": 1}', "[]"):
        with h5py.File(tmp_path / "s.h5", "w") as file:
            if content is not None:
                file.attrs["manifest"] = content
        assert not Hdf5Files(tmp_path / "s.h5").exists()
        with pytest.raises(StoreError, match=r"s\.h5' is not a token store: it has no manifest; make one with probe"):
            open_store(tmp_path / "s.h5")


def test_a_damaged_master_is_found_before_the_library_sees_it(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", make_contents())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        StoreError, match=r"s\.h5' is damaged, or not a store \(its bytes differ from those that were written\); m"
    ):
        open_store(path)


def test_a_manifest_that_is_no_json_is_damaged(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file.attrs["manifest"] = "{"
    with pytest.raises(StoreError, match=r"s\.h5' is damaged, or not a store \(not JSON: .*\); no journal records how"):
        open_store(tmp_path / "s.h5")


@pytest.mark.parametrize("lost", ["labels", "ids"])
def test_labels_and_ids_that_are_not_there_are_named(tmp_path: Path, lost: str) -> None:
    split = open_store(write(tmp_path / "s.h5", make_contents()))["train"]
    (tmp_path / f"s.h5.blocks/train/{lost}.h5").unlink()
    with pytest.raises(StoreError, match=rf"train/{lost}\.h5' is not complete; run the same probe extract again"):
        _ = getattr(split, lost)


def test_a_store_under_another_name_or_without_its_folder_is_refused(tmp_path: Path) -> None:
    """Its virtual datasets would show fill values, or another store's tokens."""
    path = write(tmp_path / "a.h5", make_contents())
    folder = path.with_name("a.h5.blocks")
    shutil.copytree(folder, tmp_path / "b.h5.blocks")
    shutil.copy(path, tmp_path / "b.h5")
    with pytest.raises(StoreError, match=r"b\.h5' was renamed: it still points into the folder 'a\.h5\.blocks'"):
        open_store(tmp_path / "b.h5")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"a\.h5' lacks its folder 'a\.h5\.blocks'; move it here too"):
        open_store(path)
