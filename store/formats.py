"""The store formats by the ending of a path. A new one is a file here and an entry in `FORMATS`."""

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .contract import StoreFiles
from .hdf5_store import Hdf5Files
from .library import is_address
from .zarr_store import ZarrFiles

FORMATS: dict[str, Callable[[Path], StoreFiles]] = {".h5": Hdf5Files, ".hdf5": Hdf5Files}


def store_files(path: Path) -> StoreFiles:
    """Return the files of the store at a path: HDF5 by its ending, anything else Zarr."""
    return FORMATS.get(path.suffix.lower(), ZarrFiles)(path)


def local_path(path: str | Path) -> Path:
    """Return the path of a store on this machine.

    Raises:
        InputError: it is an address, where stores can only be read.
    """
    if is_address(str(path)):
        raise InputError(
            f"{str(path)!r} is an address, and stores are written and verified on this machine; give a path"
        )
    return Path(path)
