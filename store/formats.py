"""The store formats, by the suffix of a path. A new format is a file here and an entry in `FORMATS`."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..runtime.address import check_address, is_address
from .contract import StoredArrays, StoreFiles
from .hdf5_store import Hdf5Files
from .library import CompressedReader, LibraryReader
from .remote import RemoteFiles
from .zarr_store import ZarrFiles

FORMATS: dict[str, Callable[[Path], StoreFiles]] = {".h5": Hdf5Files, ".hdf5": Hdf5Files}


def open_arrays(path: str | Path) -> StoredArrays:
    """Open the store at a path or an address for reading, as plain files or through the zarr library.

    Raises:
        InputError: an address that is refused.
        MissingError: there is nothing.
        StoreError: zarr cannot open it, or the metadata of an array are damaged.
    """
    files = store_files(path)
    files.check_there()
    if not files.is_compressed():
        return files
    return LibraryReader(files) if is_address(path) else CompressedReader(files)


def store_files(path: str | Path) -> StoreFiles:
    """Return the files of the store at a path, HDF5 by its suffix, else Zarr; or of the Zarr store at an address.

    Raises:
        InputError: an address that is refused.
    """
    if not is_address(path):
        return FORMATS.get(Path(path).suffix.lower(), ZarrFiles)(Path(path))
    address = check_address(str(path))
    if PurePosixPath(address).suffix.lower() in FORMATS:
        raise InputError(
            f"{address!r} names an HDF5 store, and only Zarr stores can be at an address; end the name in .zarr"
        )
    return RemoteFiles(address)


def store_of_folder(folder: Path) -> StoreFiles | None:
    """Return the store with its files in a folder, or None: a Zarr store, or the HDF5 store of a folder of blocks.

    Raises:
        StoreError: there may be a store, but it is damaged.
    """
    candidates = [store_files(folder), store_files(folder.with_suffix(""))] if folder.name else []
    return next((files for files in candidates if files.folder == folder and files.exists()), None)


def local_path(path: str | Path) -> Path:
    """Return a path on this machine.

    Raises:
        InputError: `path` is an address.
    """
    if is_address(path):
        raise InputError(
            f"{check_address(str(path))!r} is an address, and only a store can be there; give a path on this machine"
        )
    return Path(path)
