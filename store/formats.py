"""The store formats by the ending of a path. A new one is a file here and an entry in `FORMATS`."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .contract import StoredArrays, StoreFiles
from .hdf5_store import Hdf5Files
from .library import CompressedReader, LibraryReader
from .zarr_store import ZarrFiles

FORMATS: dict[str, Callable[[Path], StoreFiles]] = {".h5": Hdf5Files, ".hdf5": Hdf5Files}


def open_arrays(path: str | Path) -> StoredArrays:
    """Find out how to read the store at a path or an address: as plain files, or through the zarr library.

    Raises:
        MissingError: there is nothing.
        StoreError: zarr cannot open it, or the metadata of an array are damaged.
    """
    if is_address(path):
        return LibraryReader(str(path))
    files = store_files(Path(path))
    files.check_there()
    return CompressedReader(files) if files.is_compressed() else files


def store_files(path: Path) -> StoreFiles:
    """Return the files of the store at a path: HDF5 by its ending, anything else Zarr."""
    return FORMATS.get(path.suffix.lower(), ZarrFiles)(path)


def store_of_folder(folder: Path) -> StoreFiles | None:
    """Return the store that keeps its files in a folder, or None if none does: a Zarr store itself, or that of blocks.

    Raises:
        StoreError: there may be one, and it is damaged.
    """
    candidates = [store_files(folder), store_files(folder.with_suffix(""))] if folder.name else []
    return next((files for files in candidates if files.folder == folder and files.exists()), None)


def is_address(path: str | Path) -> bool:
    """Whether a store's name is an address such as "s3://bucket/a.zarr" and not a path."""
    return "://" in str(path)


def local_path(path: str | Path) -> Path:
    """Return the path of a store on this machine.

    Raises:
        InputError: it is an address, where stores can only be read.
    """
    if is_address(path):
        raise InputError(
            f"{str(path)!r} is an address, and stores are written and verified on this machine; give a path"
        )
    return Path(path)
