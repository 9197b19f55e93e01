"""The HDF5 format: the tree of a Zarr store in one master file, plus one file per (layer, view, block).

The master `x.h5` holds the manifest and, for each array, a virtual dataset over the block files in
`x.h5.blocks/`. A block file is written once, closed, and renamed, because an HDF5 file that is open when a process
dies cannot be read again. Its rows are contiguous and follow a header that h5py makes.
"""

import json
import os
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_hexdigest

from ..errors import StoreError
from . import journal
from .array_spec import ArraySpec, array_specs
from .checked import parse
from .contract import LABELS, MANIFEST_KEYS, StoreFiles, missing
from .durable import write_durably
from .manifest import Manifest
from .temporaries import temporary_for

ROWS, MANIFEST = "rows", "manifest"
SMALL_OFFSET, OFFSET = 2048, 4096
"""Offset of the rows in a block file: a whole page, or less if the rows do not fill a page."""
BLOCK_LIBVER, MASTER_LIBVER = ("earliest", "v110"), ("v110", "v110")
"""HDF5 1.10 introduced virtual datasets, and attributes of any size."""


class Hdf5Files(StoreFiles):
    """A store in the HDF5 format: `path` is a file, and its blocks are in a folder beside it."""

    form = "HDF5"
    folder: Path
    root: Path

    def __init__(self, path: Path) -> None:
        super().__init__(path, folder=path.with_name(path.name + ".blocks"), root=path)

    def block_name(self, spec: ArraySpec, view: int, block: int) -> str:
        """See `StoreFiles.block_name`."""
        return f"{spec.name}/{view}.{block}.h5"

    def block_header(self, spec: ArraySpec) -> bytes:
        """See `StoreFiles.block_header`."""
        header = _header((spec.block_rows, *spec.row), spec.type.stored, spec.is_bfloat16)
        assert len(header) == self.block_offset(spec), (len(header), spec)
        return header

    def block_offset(self, spec: ArraySpec) -> int:
        """See `StoreFiles.block_offset`."""
        return OFFSET if spec.block_bytes >= OFFSET else SMALL_OFFSET

    def whole_names(self, array: str) -> list[str]:
        """See `StoreFiles.whole_names`."""
        return [f"{array}.h5"]

    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str], *, replace: bool = True) -> None:
        """See `StoreFiles.write_whole`."""
        import h5py

        path = self.folder / self.whole_names(array)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File.in_memory(libver=BLOCK_LIBVER) as file:
            file.create_dataset(ROWS, data=values, dtype=h5py.string_dtype() if isinstance(values, list) else None)
            file.flush()
            image = bytes(file.id.get_file_image())
            write_durably(path, image, temporary_for(path), replace=replace)

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """See `StoredArrays.read_whole`."""
        import h5py

        path = self.folder / self.whole_names(array)[0]
        if not path.is_file():
            raise missing(path)
        try:
            with _open(path) as file:
                data = file[ROWS]
                _check_plain(data, path.stat().st_size)
                return np.asarray(data.asstr()[...] if h5py.check_string_dtype(data.dtype) else data[...])
        except Exception as error:  # on damaged files h5py raises errors of every kind
            raise self.damaged(path, error) from error

    def read_attributes(self) -> dict[str, Any]:
        """See `StoredArrays.read_attributes`."""
        if not self.root.is_file():
            return {}
        self._check_root()
        try:
            with _open(self.root) as file:
                attributes = parse(file.attrs.get(MANIFEST, "{}"))
                links = [file.get(f"{split}/{LABELS}", getlink=True) for split in file]
        except Exception as error:  # see above
            raise self.damaged(self.root, error) from error
        if not isinstance(attributes, dict) or MANIFEST_KEYS - attributes.keys():
            return {}
        self._check_folder({link.filename.split("/")[0] for link in links if hasattr(link, "filename")})
        return attributes

    def _check_root(self) -> None:
        """Raise StoreError if the root differs from its record in the journal: damaged bytes can crash HDF5."""
        known = [entry["xxh3"] for entry in journal.root_entries(self.folder)]
        if known and xxh3_64_hexdigest(self.root.read_bytes()) not in known:
            raise self.damaged(self.root, "its bytes differ from those that were written")

    def _check_folder(self, named: set[str]) -> None:
        """Raise StoreError unless the folder exists, under the name that the virtual datasets use."""
        for name in named - {self.folder.name}:
            raise StoreError(
                f"{str(self.path)!r} was renamed: it still points into the folder {name!r}, which h5py would read; "
                "give the file and its folder their old names"
            )
        if named and not self.folder.is_dir():
            raise StoreError(f"{str(self.path)!r} lacks its folder {self.folder.name!r}; move it here too")

    def root_bytes(self, manifest: Manifest) -> bytes:
        """See `StoreFiles.root_bytes`."""
        import h5py

        with h5py.File.in_memory(libver=MASTER_LIBVER) as file:
            file.attrs[MANIFEST] = json.dumps(manifest.to_json(), indent=1, sort_keys=True)
            for array in self.whole_arrays(manifest):
                group, _, name = array.rpartition("/")
                file.require_group(group)[name] = h5py.ExternalLink(
                    f"{self.folder.name}/{self.whole_names(array)[0]}", ROWS
                )
            for spec in array_specs(manifest):
                dataset = file.create_virtual_dataset(spec.name, self._virtual(spec), fillvalue=spec.type.fill)
                if spec.is_bfloat16:
                    dataset.attrs["bfloat16"] = True
            file.flush()
            return bytes(file.id.get_file_image())

    def metadata_names(self, manifest: Manifest) -> list[str]:
        """See `StoreFiles.metadata_names`: the root file holds all metadata."""
        return []

    def write_metadata(self, manifest: Manifest) -> None:
        """See `StoreFiles.write_metadata`: nothing to do."""

    def _virtual(self, spec: ArraySpec) -> Any:
        """Return the layout that shows an array's block files as one dataset."""
        import h5py

        dtype = spec.type.stored
        layout = h5py.VirtualLayout((spec.n_views, spec.n_images, *spec.row), dtype)
        layout.dcpl.set_obj_track_times(False)  # a time would change the bytes of an otherwise equal store
        for view in range(spec.n_views):
            for block in range(spec.n_blocks):
                rows = spec.rows_of(block)
                source = f"{self.folder.name}/{self.block_name(spec, view, block)}"
                stored = h5py.VirtualSource(source, ROWS, (spec.block_rows, *spec.row), dtype)
                layout[view, rows.start : rows.stop] = stored[: len(rows)]
        return layout


def _open(path: Path) -> Any:
    """Open a small file from memory: HDF5 refuses a path that the caller has open with other settings."""
    import h5py

    return h5py.File(BytesIO(path.read_bytes()), "r")


def _check_plain(data: Any, n_bytes: int) -> None:
    """Refuse a dataset whose values are not contiguous in its file of `n_bytes` bytes."""
    if data.is_virtual or data.external or data.chunks or data.size * data.dtype.itemsize > n_bytes:
        raise StoreError("its values are not contiguous in the file")


@cache
def _header(shape: tuple[int, ...], dtype: np.dtype[Any], bfloat16: bool) -> bytes:
    """Let h5py lay out a file with one contiguous dataset, and return the bytes before its rows."""
    import h5py

    with TemporaryDirectory() as folder:
        path = Path(folder) / "header.h5"
        with h5py.File(path, "w", libver=BLOCK_LIBVER, alignment_threshold=OFFSET, alignment_interval=OFFSET) as file:
            how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            how.set_layout(h5py.h5d.CONTIGUOUS)
            how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # reserves the space; the file stays sparse
            how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            how.set_obj_track_times(False)
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
            dataset = h5py.h5d.create(file.id, ROWS.encode(), kind, space, how)
            if bfloat16:
                h5py.Dataset(dataset).attrs["bfloat16"] = True
            offset = dataset.get_offset()
        with open(path, "rb") as made:
            header = made.read(offset)
            n_bytes = os.fstat(made.fileno()).st_size
    assert n_bytes == offset + int(np.prod(shape)) * dtype.itemsize, "the rows come last"
    return header
