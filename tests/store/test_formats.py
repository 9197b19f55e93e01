"""The format follows from the ending of the path."""

from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.store.formats import FORMATS, local_path, store_files
from tokenprobe.store.hdf5_store import Hdf5Files
from tokenprobe.store.zarr_store import ZarrFiles


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


def test_an_address_is_no_path() -> None:
    assert local_path("runs/a.zarr") == Path("runs", "a.zarr")
    with pytest.raises(
        InputError, match=r"'s3://bucket/a\.zarr' is an address, and stores are written and verified on"
    ):
        local_path("s3://bucket/a.zarr")
