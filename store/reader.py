"""The reader: any rows of any layer, straight from the files into the caller's array.

`array_reader.py` reads the rows: `extents.py` from plain files on this machine, `remote.py` from plain blocks at an
address, `library.py` from compressed stores. `formats.py` chooses one when a store is opened.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, StoreError, unknown_name
from .array_reader import ArrayReader
from .array_spec import ArraySpec, array_spec
from .contents import SplitInfo
from .contract import IDS, LABELS, StoredArrays
from .extractions import Extraction, read_extractions
from .formats import open_arrays
from .layout import PATCH, LayerShape, layer_index, layer_name
from .manifest import Manifest
from .memory import aligned_empty
from .order import RowNumbers
from .quantize import array_type
from .small import read_ids, read_labels

RowIndex = Sequence[int] | npt.NDArray[np.integer[Any]]


def open_store(path: str | Path) -> "Store":
    """Open a store for reading.

    Args:
        path: of a store, or the address of a Zarr store, such as "s3://bucket/a.zarr": see docs/object-stores.md.

    Raises:
        InputError: an address that is refused: it holds a password, or is of no known kind.
        MissingError: there is nothing at `path`.
        StoreError: `path` holds something else, or a store of another format version.
    """
    arrays = open_arrays(path)
    return Store(arrays.path, arrays)


class Store:
    """A token store: `store["train"]` is a split.

    Attributes:
        path: as it was given.
        arrays: reads its bytes.
        manifest: its contents, their source, and the settings that made them.
    """

    def __init__(self, path: str | Path, arrays: StoredArrays) -> None:
        """Read the manifest. See `open_store`."""
        self.path, self.arrays = path, arrays
        self._mark = arrays.read_mark()
        self.manifest: Manifest = arrays.read_manifest()

    def check_unchanged(self) -> None:
        """Check that the store is still the one that was opened. It reads the manifest again.

        A store changes if it is made anew (`probe extract --overwrite`), replaced or removed, even if all its bytes are
        the same, or if images that it held are left out. Adding layers, splits or views does not change it, nor does a
        repair. A random id at the start of the journal identifies a store. A store without a journal, such as a copy
        made with zarr, is identified only by its fingerprints.

        Call it again after the last read, before results are written. A writer that makes a store anew first removes
        the files that this check reads.

        Raises:
            StoreError: it is another store now, or gone.
        """
        try:
            same = self.arrays.read_mark() == self._mark and self.arrays.read_manifest().holds(self.manifest)
        except (StoreError, OSError):
            same = False
        if not same:
            raise StoreError(
                f"the store {str(self.path)!r} was made anew, grown, moved or removed after it was opened, so new "
                "reads do not match earlier ones; run the same command again once the store is complete"
            )

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return sorted(self.manifest.splits)

    @property
    def layers(self) -> list[int]:
        """Indices of the layers stored in any split."""
        return sorted(layer_index(name) for name in self.manifest.layers)

    @cached_property
    def extractions(self) -> list[Extraction]:
        """The recorded extractions into the store, in the order they ran; empty without a journal."""
        files = self.arrays.journaled_files()
        return [] if files is None else read_extractions(files.folder)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """The settings of the last extraction into the store; empty without a journal."""
        return dict(self.extractions[-1].config) if self.extractions else {}

    def __getitem__(self, split: str) -> "Split":
        """Return one split, or raise an InputError that names the splits."""
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
        """Targets: (n,) int64 class indices, or (n, classes) int64 of 0 and 1 if an image may have several classes.

        Reading them raises StoreError if they are missing or damaged. Their bytes are compared with the journal.
        """
        return read_labels(self.store.arrays, f"{self.name}/{LABELS}", self.info)

    @cached_property
    def ids(self) -> list[str]:
        """Stable image keys, one per row, checked like labels."""
        return read_ids(self.store.arrays, f"{self.name}/{IDS}", len(self))

    def shape(self, layer: int) -> LayerShape:
        """Return the shape of one layer's tokens."""
        self._kinds(layer)
        return self.store.manifest.shape(layer)

    def dtype(self, kind: str = PATCH) -> np.dtype[Any]:
        """Return the type of the values that `tokens` gives by default."""
        return array_type(kind, self.store.manifest.recipe.dtype).returned

    def stored_dtype(self, kind: str = PATCH) -> np.dtype[Any]:
        """Return the type of the values in the files."""
        return array_type(kind, self.store.manifest.recipe.dtype).stored

    def is_bfloat16(self, kind: str = PATCH) -> bool:
        """Whether the stored values are the bits of bfloat16."""
        return array_type(kind, self.store.manifest.recipe.dtype).name == "bfloat16"

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
        dtype: npt.DTypeLike | None = None,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Read rows of one layer.

        Args:
            layer: index of the layer.
            rows: row indices in any order, or None for all.
            view: index of the view.
            kind: "patch" (rows, patches, dim), "prefix" (rows, prefix, dim), "mean" (rows, dim), or "embedding" (rows,
                its own width), which only the last layer of some backbones has.
            dtype: of the result. The default is the stored type, but float32 for bfloat16 and float16 for int8. The
                stored type gives the values in the files: bfloat16 as its bits, int8 without its scales.
            out: C-contiguous array to read into; allocated if None. The kernel copies fastest to whole pages: see
                `memory.py`.

        Returns:
            The rows in the order asked ("mean" and "embedding" are stored as float32).

        Raises:
            InputError: no such layer, array, view or row.
            StoreError: a block is missing or too short.
        """
        spec = self._spec(layer, kind, view)
        index = np.arange(len(self)) if rows is None else self._row_numbers(rows)
        shape, wanted = (len(index), *spec.row), _wanted_type(spec, dtype)
        if out is None:
            out = aligned_empty(shape, wanted)
        assert (out.shape, out.dtype, out.flags.c_contiguous) == (shape, wanted, True), (out.shape, out.dtype)
        ArrayReader(self.store.arrays, spec, view).read(index, out)
        return out

    def reader(self, layer: int, kind: str = PATCH, view: int = 0) -> ArrayReader:
        """Return a reader of one array, which fills the caller's arrays and can read ahead."""
        return ArrayReader(self.store.arrays, self._spec(layer, kind, view), view)

    def _spec(self, layer: int, kind: str, view: int) -> ArraySpec:
        kinds = self._kinds(layer)
        if kind not in kinds:
            raise unknown_name(f"array in {self.name}/{layer_name(layer)}", kind, kinds)
        if not 0 <= view < self.info.views:
            raise InputError(
                f"view {view} asked of split {self.name!r} of {str(self.store.path)!r}, which has {self.info.views} "
                "view(s)"
            )
        return replace(array_spec(self.store.manifest, self.name, layer_name(layer), kind), n_views=self.info.views)

    def with_views(self, n: int) -> "Split":
        """Return the split with its first n views alone, to read no others."""
        return Split(self.store, self.name, replace(self.info, views=min(n, self.info.views)))

    def n_finished_views(self, layers: Sequence[int]) -> int:
        """Return how many views, from view 0 on, are written of all these layers; 1 if not even view 0 is."""
        n = self.info.views
        while n > 1 and not self.with_views(n)._is_complete(layers):
            n -= 1
        return n

    def _is_complete(self, layers: Sequence[int]) -> bool:
        return self.store.manifest.complete or not any(self.store.arrays.count_missing(self._specs(layers)))

    def _specs(self, layers: Sequence[int]) -> list[ArraySpec]:
        return [self._spec(layer, kind, 0) for layer in layers for kind in self._kinds(layer)]

    def check_complete(self, layers: Sequence[int]) -> None:
        """Raise StoreError if a block of one of the layers has not been written yet, of any view of this split."""
        if self.store.manifest.complete:
            return
        specs = self._specs(layers)
        for spec, n_missing in zip(specs, self.store.arrays.count_missing(specs), strict=True):
            if n_missing:
                whole = f", with this layer and --views {spec.n_views}" if spec.n_views > 1 else ""
                raise StoreError(
                    f"{spec.name} of {str(self.store.path)!r} is not complete ({n_missing} of "
                    f"{spec.n_blocks * spec.n_views} blocks are missing); run the same probe extract again{whole}"
                )

    def _row_numbers(self, rows: RowIndex) -> RowNumbers:
        given = np.asarray(rows)
        if given.size and given.dtype.kind not in "iu":
            raise InputError(f"rows of type {given.dtype} asked of split {self.name!r}; give integer row numbers")
        if given.ndim != 1:
            raise InputError(f"rows of shape {given.shape} asked of split {self.name!r}; give a list of row numbers")
        index = given.astype(np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise InputError(
                f"rows {index.min()} to {index.max()} asked of split {self.name!r}, which has rows 0 to {len(self) - 1}"
            )
        return index

    def _kinds(self, layer: int) -> list[str]:
        if layer_name(layer) not in self.info.layers:
            raise unknown_name(f"layer in split {self.name!r}", str(layer), map(str, self.layers))
        return self.info.layers[layer_name(layer)]


def _wanted_type(spec: ArraySpec, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    try:
        wanted = spec.type.returned if dtype is None else np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted.kind != "f" and wanted != spec.type.stored:
        raise InputError(
            f"dtype {dtype!r} asked of {spec.name!r}, stored as {spec.type.name}: expected float16, float32, "
            f"float64 or the type in the files, {spec.type.stored.name}"
        )
    return wanted
