"""A Zarr store at an address. Plain blocks are read by ranged requests, many at a time, and written whole."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AddressError, MissingError, StoreError
from .array_spec import ArraySpec, array_specs
from .checked import UnfitError, parse, read_all
from .durable import write_durably
from .extents import Part
from .objects import N_REQUESTS, Bucket, ObjectPath, Place
from .zarr_store import KEYS, ROOT, ZarrFiles

MOST_BRIDGED, BRIDGED_BYTES = 0.2, 2**18
"""Rows that nobody asked for, as a part of those asked for, and bytes of one gap: fewer requests are worth them."""
LARGE_ROW = 2**14
"""Bytes of a row from which a loop over rows copies faster than numpy's indexing, which copies twice."""

Array = npt.NDArray[Any]


class RemoteFiles(ZarrFiles):
    """A store in the Zarr v3 format at an address. Its names and bytes are those of a local one."""

    form = "Zarr at an address: read by ranged requests"
    n_threads = N_REQUESTS
    n_lanes = N_REQUESTS
    folder: ObjectPath

    def __init__(self, address: str) -> None:
        """Take an address that `check_address` returned."""
        super().__init__(address, ObjectPath(Bucket(address)))

    def check_there(self) -> None:
        """Raise MissingError if there is nothing at the address."""
        if not self.root.exists() and not self.folder.is_dir():
            raise MissingError(f"no store at {self.path!r}; check the address, or make a store with probe extract")

    def look_again(self) -> None:
        """See `StoreFiles.look_again`."""
        self.folder.bucket.sizes()

    def is_plain(self) -> bool:
        """Whether blocks are stored as this program writes them: uncompressed, each a chunk with our name for it.

        Raises:
            StoreError: the metadata of an array are damaged.
        """
        try:
            spec = next(array_specs(self.read_manifest()))
        except StoreError:
            return True  # no store; `read_manifest` will say so
        path = self.folder / spec.name / ROOT
        try:
            about = parse(path.read_bytes())
            return bool(
                [codec["name"] for codec in about["codecs"]] == ["bytes"]
                and about["chunk_key_encoding"]["configuration"]["separator"] == KEYS["chunk_key_encoding"]["separator"]
                and about["chunk_grid"]["configuration"]["chunk_shape"] == [1, spec.block_rows, *spec.row]
            )
        except FileNotFoundError:
            return True
        except (UnfitError, KeyError, TypeError) as error:
            raise self.damaged(path, error) from error

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`: whether it is not plain."""
        return not self.is_plain()

    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: Array) -> None:
        """See `StoredArrays.read_rows`: one request per run of rows."""
        path = self.folder / self.block_name(spec, view, part.block)
        runs = runs_of(part.rows, spec.row_bytes)
        ranges = [(first * spec.row_bytes, stop * spec.row_bytes) for first, stop in runs]
        try:
            buffers = path.read_ranges(ranges)
        except FileNotFoundError:
            raise StoreError(
                f"block file {str(path)!r} is missing; run the same probe extract again, or probe verify --repair"
            ) from None
        except AddressError as error:
            self._check_size(path, spec)
            raise StoreError(f"cannot read block file {str(path)!r}: {error.strerror}") from error
        rows_of_out = out.reshape(-1).view(np.uint8).reshape(len(out), spec.row_bytes)
        places = np.searchsorted(part.rows, [first for first, _ in runs])
        for (first, stop), (start, end), buffer in zip(
            runs, pairwise([*places.tolist(), len(part.rows)]), buffers, strict=True
        ):
            values = np.frombuffer(buffer, np.uint8)
            if len(values) < (stop - first) * spec.row_bytes:
                self._check_size(path, spec)
                raise StoreError(f"{str(path)!r} gave fewer bytes than asked; run the same command again")
            copy_rows(
                values.reshape(-1, spec.row_bytes), part.rows[start:end] - first, rows_of_out, part.places[start:end]
            )

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: there is no cache to load into."""

    def _check_size(self, path: ObjectPath, spec: ArraySpec) -> None:
        """Raise StoreError if the object of a block is too short."""
        found = path.head()
        if found is not None and found.size < spec.block_bytes:
            raise StoreError(
                f"{str(path)!r} ends at byte {found.size}, short of {spec.block_bytes}: it is damaged; "
                "probe verify --repair mends it"
            )

    def _write(self, made: dict[str, Any], *, replace: bool = True) -> None:
        """Write small files side by side."""
        files = [(self.folder / name, data.to_bytes()) for name, data in made.items() if name != ROOT]
        with ThreadPoolExecutor(N_REQUESTS) as pool:
            list(pool.map(lambda file: self._write_one(*file, replace=replace), files))

    def _write_one(self, path: Place, content: bytes, *, replace: bool) -> None:
        """Write a small file unless it is there; it is read with one request."""
        [there] = read_all([path])
        if there != content:
            write_durably(path, content, replace=replace)


def runs_of(rows: npt.NDArray[np.int64], row_bytes: int) -> list[tuple[int, int]]:
    """Cut ascending rows into runs (first, stop) to be read as one. The smallest gaps are read along, up to a limit."""
    gaps = np.maximum(np.diff(rows) - 1, 0)
    order = np.argsort(gaps, kind="stable")
    spent = np.cumsum(gaps[order])
    bridged = np.zeros(len(gaps), bool)
    bridged[order[(spent <= MOST_BRIDGED * len(np.unique(rows))) & (gaps[order] * row_bytes <= BRIDGED_BYTES)]] = True
    cuts = [0, *(np.flatnonzero(~bridged) + 1).tolist(), len(rows)]
    return [(int(rows[start]), int(rows[stop - 1]) + 1) for start, stop in pairwise(cuts) if stop > start]


def copy_rows(values: Array, rows: Array, out: Array, places: Array) -> None:
    """Copy rows of bytes to their places in the output."""
    if len(rows) == rows[-1] - rows[0] + 1 == places[-1] - places[0] + 1 and (np.diff(places) == 1).all():
        out[places[0] : places[-1] + 1] = values[rows[0] : rows[-1] + 1]
    elif values.shape[1] >= LARGE_ROW:
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            out[place] = values[row]
    else:
        out[places] = values[rows]
