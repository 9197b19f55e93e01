"""The store formats by the ending of a path. A new one is a file here and an entry in `FORMATS`."""

from collections.abc import Callable
from pathlib import Path

from .contract import StoreFiles
from .hdf5_store import Hdf5Files
from .zarr_store import ZarrFiles

FORMATS: dict[str, Callable[[Path], StoreFiles]] = {".h5": Hdf5Files, ".hdf5": Hdf5Files}


def store_files(path: Path) -> StoreFiles:
    """Return the files of the store at a path: HDF5 by its ending, anything else Zarr."""
    return FORMATS.get(path.suffix.lower(), ZarrFiles)(path)
