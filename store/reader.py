"""The reader: any rows of any layer, straight from the files into an array that the caller owns.

Rows of a block that follow one another in the file are fetched by one `preadv`, whose vectors point at
each row's place in the caller's array. So reading in order, reading shuffled and reading a few rows are
the same call, and no byte is copied twice or read without being wanted.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingError, StoreError, unknown_name
from .journal import read_records
from .layout import PATCH, LayerShape, layer_index, layer_name
from .manifest import Manifest, SplitInfo
from .zarr_store import IDS, LABELS, ZarrFiles, array_dtype

N_THREADS = 4
MAX_VECTORS = 1024
"""IOV_MAX of Linux: more vectors in one call are refused."""

RowIndex = Sequence[int] | npt.NDArray[np.integer[Any]]


class Extent(NamedTuple):
    """A run of bytes in a file."""

    path: Path
    offset: int
    size: int


def open_store(path: str | Path) -> "Store":
    """Open a store for reading.

    Raises:
        MissingError: there is nothing at `path`.
        StoreError: there is something else, or a store of another format version.
    """
    return Store(Path(path))


class Store:
    """A token store: `store["train"]` is a split."""

    def __init__(self, path: Path) -> None:
        """Read the manifest. See `open_store`."""
        if not path.exists():
            raise MissingError(f"no store at {str(path)!r}; make one with probe extract")
        self.path = path
        self.files = ZarrFiles(path)
        self.manifest: Manifest = self.files.read_manifest()

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return sorted(self.manifest.splits)

    @property
    def layers(self) -> list[int]:
        """Indices of the layers stored, in any split."""
        return sorted(layer_index(name) for name in self.manifest.layers)

    def __getitem__(self, split: str) -> "Split":
        """Return one split, or raise InputError naming those there are."""
        return Split(self, split, self.manifest.split(split))


class Split:
    """One split of a store: rows of tokens by layer, with labels and ids."""

    def __init__(self, store: Store, name: str, info: SplitInfo) -> None:
        self.store, self.name, self.info = store, name, info

    def __len__(self) -> int:
        return self.info.n_images

    @property
    def layers(self) -> list[int]:
        """Indices of the layers stored of this split."""
        return sorted(layer_index(name) for name in self.info.layers)

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return self.info.classes

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Targets, (n,) int64."""
        return self.store.files.read_rows(self.name, LABELS)

    @cached_property
    def ids(self) -> list[str]:
        """Stable image keys, one a row."""
        return [str(key) for key in self.store.files.read_rows(self.name, IDS)]

    def shape(self, layer: int) -> LayerShape:
        """Return the shape of one layer's tokens."""
        self._kinds(layer)
        return self.store.manifest.shape(layer)

    def dtype(self, kind: str = PATCH) -> np.dtype[Any]:
        """Return the type of the values that `tokens` gives."""
        return array_dtype(kind, self.store.manifest.recipe.dtype)

    def has(self, layer: int, kind: str) -> bool:
        """Whether an array is stored of a layer."""
        return kind in self._kinds(layer)

    def tokens(
        self,
        layer: int,
        rows: RowIndex | None = None,
        *,
        view: int = 0,
        kind: str = PATCH,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Read rows of one layer.

        Args:
            layer: index of the layer.
            rows: row indices in any order, or None for all.
            view: index of the view.
            kind: "patch" (rows, patches, dim), "prefix" (rows, prefix, dim) or "mean" (rows, dim).
            out: C-contiguous array to read into; made if not given.

        Returns:
            The rows in the order asked, in the stored dtype ("mean" is float32).

        Raises:
            InputError: no such layer, array, view or row.
            StoreError: a block is not there, or is shorter than it should be.
        """
        self._check(layer, kind, view)
        index = np.arange(len(self)) if rows is None else self._row_numbers(rows)
        row_shape = self.shape(layer).row_shape(kind)
        if out is None:
            out = np.empty((len(index), *row_shape), self.dtype(kind))
        assert (out.shape, out.dtype) == ((len(index), *row_shape), self.dtype(kind)), (out.shape, out.dtype)
        assert out.flags.c_contiguous
        blocks = self._blocks(index)
        with ThreadPoolExecutor(N_THREADS) as pool:
            for done in [pool.submit(self._read_block, layer, kind, view, *part, out) for part in blocks]:
                done.result()
        return out

    def extent(self, layer: int, kind: str, view: int, block: int) -> Extent:
        """Return where the rows of one block are."""
        name = self.store.files.chunk_name(self.name, layer_name(layer), kind, view, block)
        shape = self.shape(layer).row_shape(kind)
        n_rows = min(self.info.block_rows, len(self) - block * self.info.block_rows)
        return Extent(self.store.path / name, 0, n_rows * int(np.prod(shape)) * self.dtype(kind).itemsize)

    def check_complete(self, layers: Sequence[int]) -> None:
        """Raise StoreError if a block of one of the layers has not been written yet."""
        if self.store.manifest.complete:
            return
        recorded = read_records(self.store.path)
        for layer in layers:
            name = layer_name(layer)
            for view, block in product(range(self.store.manifest.views), range(self.info.n_blocks)):
                for kind in self._kinds(layer):
                    if self.store.files.chunk_name(self.name, name, kind, view, block) not in recorded:
                        raise StoreError(
                            f"split {self.name!r} {name} of {str(self.store.path)!r} is not complete (block {block} of "
                            f"{self.info.n_blocks} is missing); run the same probe extract again to finish it"
                        )

    def _row_numbers(self, rows: RowIndex) -> npt.NDArray[np.int64]:
        given = np.asarray(rows)
        if given.size and given.dtype.kind not in "iu":
            raise InputError(f"rows of type {given.dtype} asked of split {self.name!r}; give row numbers, integers")
        index = given.astype(np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise InputError(
                f"rows {index.min()} to {index.max()} asked of split {self.name!r}, which has rows 0 to {len(self) - 1}"
            )
        return index

    def _blocks(self, index: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield (block, rows within it in file order, their places in the output) for each block touched."""
        order = np.argsort(index, kind="stable")
        blocks, rows = np.divmod(index[order], self.info.block_rows)
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        for start, stop in pairwise([*starts, len(order)]):
            yield int(blocks[start]), rows[start:stop], order[start:stop]

    def _read_block(
        self,
        layer: int,
        kind: str,
        view: int,
        block: int,
        rows: npt.NDArray[Any],
        places: npt.NDArray[Any],
        out: npt.NDArray[Any],
    ) -> None:
        extent = self.extent(layer, kind, view, block)
        row_bytes = out[0].nbytes
        try:
            fd = os.open(extent.path, os.O_RDONLY)
        except FileNotFoundError:
            raise StoreError(
                f"block file {str(extent.path)!r} is not there; run the same probe extract again"
            ) from None
        try:
            for run in _runs(rows):
                vectors = [memoryview(out[place]).cast("B") for place in places[run]]
                _read_fully(fd, extent, extent.offset + int(rows[run][0]) * row_bytes, vectors)
        finally:
            os.close(fd)

    def _kinds(self, layer: int) -> list[str]:
        if layer_name(layer) not in self.info.layers:
            raise unknown_name(f"layer in split {self.name!r}", str(layer), map(str, self.layers))
        return self.info.layers[layer_name(layer)]

    def _check(self, layer: int, kind: str, view: int) -> None:
        if kind not in self._kinds(layer):
            raise unknown_name(f"array in {self.name}/{layer_name(layer)}", kind, self._kinds(layer))
        if not 0 <= view < self.store.manifest.views:
            raise InputError(f"view {view} asked of a store with {self.store.manifest.views} view(s)")


def _runs(rows: npt.NDArray[Any]) -> list[slice]:
    """Cut sorted rows where they do not follow one another, or where a run has `MAX_VECTORS` rows."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
    return [
        slice(start, min(start + MAX_VECTORS, stop))
        for first, stop in pairwise(cuts)
        for start in range(first, stop, MAX_VECTORS)
    ]


def _read_fully(fd: int, extent: Extent, offset: int, vectors: list[memoryview]) -> None:
    """`preadv` until every vector is full; the kernel may give less at a time."""
    while vectors:
        n_read = os.preadv(fd, vectors, offset)
        if n_read == 0:
            raise StoreError(
                f"{str(extent.path)!r} ends at byte {offset}, short of {extent.offset + extent.size}: it is damaged"
            )
        offset += n_read
        while vectors and n_read >= len(vectors[0]):
            n_read -= len(vectors.pop(0))
        if n_read:
            vectors[0] = vectors[0][n_read:]
