"""The store formats, by the suffix of a path. A new format is a file here and an entry in `FORMATS`."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .contract import StoredArrays, StoreFiles
from .hdf5_store import Hdf5Files
from .library import CompressedReader, LibraryReader
from .zarr_store import ZarrFiles

FORMATS: dict[str, Callable[[Path], StoreFiles]] = {".h5": Hdf5Files, ".hdf5": Hdf5Files}


def open_arrays(path: str | Path) -> StoredArrays:
    """Open the store at a path or an address for reading, as plain files or through the zarr library.

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
    """Return the files of the store at a path: HDF5 by its suffix, else Zarr."""
    return FORMATS.get(path.suffix.lower(), ZarrFiles)(path)


def store_of_folder(folder: Path) -> StoreFiles | None:
    """Return the store with its files in a folder, or None: a Zarr store, or the HDF5 store of a folder of blocks.

    Raises:
        StoreError: there may be a store, but it is damaged.
    """
    candidates = [store_files(folder), store_files(folder.with_suffix(""))] if folder.name else []
    return next((files for files in candidates if files.folder == folder and files.exists()), None)


def is_address(path: str | Path) -> bool:
    """Whether a store's name is an address, such as "s3://bucket/a.zarr", not a path."""
    return "://" in str(path)


def local_path(path: str | Path) -> Path:
    """Return the path of a store on this machine.

    Raises:
        InputError: `path` is an address, at which stores can only be read.
    """
    if is_address(path):
        raise InputError(
            f"{str(path)!r} is an address, but stores can be written and verified only on this machine; give a path"
        )
    return Path(path)
