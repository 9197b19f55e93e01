"""One file of one block, growing under a temporary name until it is whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from .contract import ArraySpec
from .durable import rename_durably
from .journal import FileRecord


class BlockFile:
    """Rows appended in order; nothing else reads the file before `finish`."""

    def __init__(self, folder: Path, name: str, spec: ArraySpec, header: bytes = b"") -> None:
        """Open the temporary file and write the header.

        Args:
            folder: of the store.
            name: path of the finished file, relative to the folder.
            spec: the array.
            header: what comes before the rows.
        """
        self._path, self.name = folder / name, name
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._missing, self._row, self._type = spec.block_rows, spec.row, spec.type
        self._hash, self._size = xxh3_64(), 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self._write(memoryview(header))
        except OSError:
            self.abandon()
            raise

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write the next rows: (n, *row) in the stored type."""
        assert (values.dtype, values.shape[1:]) == (self._type.stored, self._row), (values.dtype, values.shape)
        self._missing -= len(values)
        self._write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)

    def finish(self, there: FileRecord | None = None) -> FileRecord:
        """Fill up the last block of a split, make the file durable and give it its name.

        Args:
            there: the finished file of that name, if there is one: it stays if it is the same.
        """
        for _ in range(self._missing):
            self.append(np.full((1, *self._row), self._type.fill, self._type.stored))
        record = FileRecord(self.name, self._size, self._hash.hexdigest())
        if record == there:
            self.abandon()
            return record
        os.fsync(self._fd)
        self._close()
        rename_durably(self._temporary, self._path)
        return record

    def _write(self, data: memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._fd, data) :]

    def abandon(self) -> None:
        """Remove the file if it is unfinished."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
