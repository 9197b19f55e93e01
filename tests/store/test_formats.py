"""The format follows from the suffix of the path."""

from pathlib import Path

import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.store import open_store
from tokenprobe.store.array_spec import array_specs
from tokenprobe.store.export import export_store, select
from tokenprobe.store.formats import FORMATS, local_path, open_arrays, store_files
from tokenprobe.store.hdf5_store import Hdf5Files
from tokenprobe.store.library import CompressedReader
from tokenprobe.store.remote import RemoteFiles
from tokenprobe.store.zarr_store import ZarrFiles
from tokenprobe.testing.store_kit import make_contents, write


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.H5", "b.zarr.h5"])
def test_hdf5_is_a_file_with_its_blocks_beside_it(name: str) -> None:
    files = store_files(Path("runs") / name)
    assert isinstance(files, Hdf5Files)
    assert (files.path, files.root, files.folder) == (
        Path("runs", name),
        Path("runs", name),
        Path("runs", f"{name}.blocks"),
    )


@pytest.mark.parametrize("name", ["a.zarr", "a", "a.h5.zarr", "a.h5.blocks", ".h5"])
def test_anything_else_is_a_zarr_folder(name: str) -> None:
    files = store_files(Path("runs") / name)
    assert isinstance(files, ZarrFiles)
    assert (files.path, files.folder, files.root) == (
        Path("runs", name),
        Path("runs", name),
        Path("runs", name, "zarr.json"),
    )


def test_endings_are_lower_case() -> None:
    assert set(FORMATS) == {".h5", ".hdf5"} == {ending.lower() for ending in FORMATS}


def test_a_plain_store_is_read_from_its_files_and_others_through_the_library(tmp_path: Path) -> None:
    for suffix, kind in ((".zarr", ZarrFiles), (".h5", Hdf5Files)):
        path = write(tmp_path / f"a{suffix}", make_contents())
        arrays = open_arrays(path)
        assert isinstance(arrays, kind)
        assert arrays.journaled_files() is arrays and not arrays.is_compressed()
    plain = open_store(tmp_path / "a.zarr")
    export_store(plain, tmp_path / "b.zarr", "zarr", select(plain, "zarr"))
    compressed = open_arrays(tmp_path / "b.zarr")
    assert type(compressed) is CompressedReader and compressed.is_compressed()
    files = compressed.journaled_files()
    assert files is not None and files.folder == tmp_path / "b.zarr"
    (tmp_path / "b.zarr/journal.jsonl").unlink()
    assert compressed.journaled_files() is None
    far = open_arrays(f"file://{tmp_path / 'a.zarr'}")
    assert type(far) is RemoteFiles
    assert far.journaled_files() is far
    assert far.count_missing(list(array_specs(plain.manifest))) == [0] * 12
    with pytest.raises(MissingError, match=f"^no store at '{tmp_path}/none.zarr'; make one with probe extract$"):
        open_arrays(tmp_path / "none.zarr")


def test_an_address_is_no_path() -> None:
    assert local_path("runs/a.zarr") == Path("runs", "a.zarr")
    with pytest.raises(
        InputError, match=r"'s3://bucket/a\.zarr' is an address, and only a store can be there; give a path on"
    ):
        local_path("s3://bucket/a.zarr")
