"""The file of one block. It has a temporary name until it is complete."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

from ..errors import StoreError
from .array_spec import ArraySpec
from .extents import as_bytes
from .journal import FileRecord, file_record
from .new_file import new_file
from .objects import Place
from .temporaries import new_writer


class BlockFile:
    """Rows are appended in order. Nobody reads the file before `finish`."""

    def __init__(
        self, folder: Place, name: str, spec: ArraySpec, n_rows: int, header: bytes = b"", writer: str | None = None
    ) -> None:
        """Open the temporary file and write the header.

        Args:
            folder: of the store.
            name: path of the finished file, relative to the folder.
            spec: the array.
            n_rows: rows in the block: `spec.block_rows`, or fewer at the end of a split.
            header: bytes before the rows.
            writer: name of the writer, which is part of the temporary name.
        """
        self._folder, self._path, self.name = folder, folder / name, name
        self._spec, self._n_rows, self._n_given = spec, n_rows, 0
        self._hash, self._size = xxh3_64(), 0
        self._new = new_file(self._path, writer or new_writer())
        try:
            self._write(memoryview(header))
        except OSError:
            self.abandon()
            raise

    def append(self, values: npt.NDArray[Any]) -> None:
        """Write the next rows: (n, *row) in the stored type.

        Raises:
            StoreError: more rows than the block holds.
        """
        spec = self._spec
        assert (values.dtype, values.shape[1:]) == (spec.type.stored, spec.row), (values.dtype, values.shape)
        self._n_given += len(values)
        if self._n_given > self._n_rows:
            raise self._other_count(f"{self._n_given} were given")
        self._write(as_bytes(np.ascontiguousarray(values)))

    def finish(self, there: FileRecord | None = None, stays: Callable[[], bool] = lambda: True) -> FileRecord:
        """Fill up the last block of a split, make the file durable and give it its final name.

        Another writer may have finished the block meanwhile, and its bytes may differ (another device, another batch
        size). The returned record is always of the file that is there.

        Args:
            there: the record of a finished file of that name, if any.
            stays: asked whether a file stays that is found under that name, with the right size.

        Raises:
            StoreError: rows are missing.
        """
        if self._n_given < self._n_rows:
            raise self._other_count(f"only {self._n_given} were given")
        empty = as_bytes(np.full((1, *self._spec.row), self._spec.type.fill, self._spec.type.stored))
        for _ in range(self._spec.block_rows - self._n_rows):
            self._write(empty)
        if there is not None:
            self.abandon()
            return there
        if self._new.publish(self._size, stays):
            return FileRecord(self.name, self._size, self._hash.hexdigest())
        return file_record(self._folder, self.name)

    def _other_count(self, given: str) -> StoreError:
        return StoreError(
            f"block file {str(self._path)!r} holds {self._n_rows} rows, but {given}; append each row of a block once"
        )

    def _write(self, data: memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
        while data:
            data = data[os.write(self._new.fd, data) :]

    def abandon(self) -> None:
        """Remove the file if it is unfinished."""
        self._new.abandon()
