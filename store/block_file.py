"""One file of one block, growing under a temporary name until it is whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from .durable import rename_durably
from .journal import FileRecord


class BlockFile:
    """Rows appended in order; nothing else reads the file before `finish`."""

    def __init__(self, store: Path, name: str, n_rows: int, row: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Open the temporary file.

        Args:
            store: folder of the store.
            name: path of the finished file, relative to the store.
            n_rows: images of a full block; a chunk file always has room for so many.
            row: shape of one image's values.
            dtype: their type.
        """
        self._path, self._name = store / name, name
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._missing, self._row, self._dtype = n_rows, row, dtype
        self._hash, self._size = xxh3_64(), 0
        self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write the next rows: (n, *row) in the file's dtype."""
        assert (values.dtype, values.shape[1:]) == (self._dtype, self._row), (values.dtype, values.shape)
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        self._hash.update(data)
        self._size += len(data)
        self._missing -= len(values)
        while data:
            data = data[os.write(self._fd, data) :]

    def finish(self) -> FileRecord:
        """Fill up the last block of a split with NaN, make the file durable and give it its name."""
        if self._missing:
            self.append(np.full((self._missing, *self._row), np.nan, self._dtype))
        os.fsync(self._fd)
        self._close()
        rename_durably(self._temporary, self._path)
        return FileRecord(self._name, self._size, self._hash.hexdigest())

    def abandon(self) -> None:
        """Remove the file if it is unfinished."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
