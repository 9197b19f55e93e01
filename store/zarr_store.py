"""The Zarr v3 format: one folder per array, one uncompressed chunk file per (layer, view, block).

The zarr library writes metadata, labels and ids, and can open the whole store.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import AddressError
from .array_spec import ArraySpec, array_specs
from .checked import Count, UnfitError, parse, read, read_file
from .contract import LABELS, StoreFiles, missing
from .durable import write_durably
from .layout import CHANNELS, POOLED
from .manifest import Manifest
from .objects import Place
from .temporaries import temporary_for

ROOT = "zarr.json"
KEYS: dict[str, Any] = {"chunk_key_encoding": {"name": "default", "separator": "."}}
WHOLE_FILLS: dict[str, Any] = {"i": -1, "f": float("nan"), "O": ""}
"""Fill values for a missing chunk of a small array, by kind of type. No real value equals them."""
PLAIN: dict[Any, str] = {"int64": "<i8", "float32": "<f4"}
PLAIN_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]
"""Types and codecs of small arrays that numpy can read too."""
DIMENSIONS = ("view", "image", "token", "channel")


class ZarrFiles(StoreFiles):
    """A store in the Zarr v3 format: `path` is a folder."""

    form = "Zarr"

    def __init__(self, path: str | Path, folder: Place | None = None) -> None:
        """Take the name of the store, and its folder if that is not the name."""
        folder = folder or Path(path)
        super().__init__(path, folder=folder, root=folder / ROOT)

    def block_name(self, spec: ArraySpec, view: int, block: int) -> str:
        """See `StoreFiles.block_name`."""
        return f"{spec.name}/c.{view}.{block}" + ".0" * len(spec.row)

    def block_header(self, spec: ArraySpec) -> bytes:
        """See `StoreFiles.block_header`."""
        return b""

    def block_offset(self, spec: ArraySpec) -> int:
        """See `StoreFiles.block_offset`."""
        return 0

    def whole_names(self, array: str) -> list[str]:
        """See `StoreFiles.whole_names`."""
        n_axes = 2 if array.endswith(CHANNELS) or self._is_multilabel(array) else 1
        return [f"{array}/{ROOT}", f"{array}/c" + ".0" * n_axes]

    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str], *, replace: bool = True) -> None:
        """See `StoreFiles.write_whole`."""
        import zarr

        made: dict[str, Any] = {}
        data = np.array(values, dtype=object) if isinstance(values, list) else values
        stored = zarr.create_array(
            zarr.storage.MemoryStore(made),
            name=array,
            shape=data.shape,
            chunks=tuple(max(1, n) for n in data.shape),
            dtype=str if data.dtype == object else data.dtype,
            fill_value=WHOLE_FILLS[data.dtype.kind],
            dimension_names=_whole_axes(array)[: data.ndim],
            config={"write_empty_chunks": True},
            compressors=None,
            **KEYS,
        )
        stored[...] = data
        self._write(made, replace=replace)

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """See `StoredArrays.read_whole`; zarr would give its fill value for a missing chunk."""
        metadata, chunk = (self.folder / name for name in self.whole_names(array))
        if not (metadata.is_file() and chunk.is_file()):
            raise missing(self.folder / array)
        try:
            values = self._read_plain(metadata, chunk)
            return self._read_by_library(metadata, chunk) if values is None else values
        except AddressError:
            raise
        except Exception as error:  # on damaged files zarr raises errors of every kind
            raise self.damaged(self.folder / array, error) from error

    def _read_plain(self, metadata: Place, chunk: Place) -> npt.NDArray[Any] | None:
        """Read plain numbers without zarr, which takes half a second to import. None for any other array."""
        about = parse(read_file(metadata))
        dtype = PLAIN.get(about["data_type"])
        if dtype is None or about["codecs"] != PLAIN_CODECS:
            return None
        return np.frombuffer(bytearray(read_file(chunk)), dtype).reshape(read(list[Count], about["shape"], "shape"))

    def _read_by_library(self, metadata: Place, chunk: Place) -> npt.NDArray[Any]:
        import zarr
        from zarr.core.buffer import Buffer, default_buffer_prototype

        as_buffer = default_buffer_prototype().buffer.from_bytes
        files: dict[str, Buffer] = {path.name: as_buffer(read_file(path)) for path in (metadata, chunk)}
        return np.asarray(zarr.open_array(zarr.storage.MemoryStore(files), mode="r")[...])

    def read_attributes(self) -> dict[str, Any]:
        """See `StoredArrays.read_attributes`."""
        try:
            return _attributes_of(read_file(self.root))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnfitError) as error:
            raise self.damaged(self.root, error) from error

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`: whether the first array in blocks has any codec but the plain one."""
        assert isinstance(self.folder, Path), self.folder
        for metadata in self.folder.glob(f"*/layer_*/*/{ROOT}"):
            if metadata.parent.name.endswith(CHANNELS):
                continue  # a small array, never compressed
            try:
                return [codec["name"] for codec in parse(read_file(metadata))["codecs"]] != ["bytes"]
            except (OSError, UnfitError, KeyError, TypeError) as error:
                raise self.damaged(metadata, error) from error
        return False

    def root_bytes(self, manifest: Manifest) -> bytes:
        """See `StoreFiles.root_bytes`."""
        root = {"zarr_format": 3, "node_type": "group", "attributes": manifest.to_json()}
        return json.dumps(root, indent=1, sort_keys=True).encode()

    def metadata_names(self, manifest: Manifest) -> list[str]:
        """See `StoreFiles.metadata_names`."""
        arrays = {spec.name for spec in array_specs(manifest)}
        groups = {name.rpartition("/")[0] for name in arrays} | set(manifest.splits)
        return [f"{name}/{ROOT}" for name in sorted(arrays | groups)]

    def write_metadata(self, manifest: Manifest) -> None:
        """See `StoreFiles.write_metadata`."""
        import zarr

        made: dict[str, Any] = {}
        for spec in array_specs(manifest):
            zarr.create_array(
                zarr.storage.MemoryStore(made),
                name=spec.name,
                shape=(spec.n_views, spec.n_images, *spec.row),
                dtype=spec.type.stored,
                fill_value=spec.type.fill,
                attributes={"bfloat16": True} if spec.is_bfloat16 else None,
                dimension_names=_dimensions(spec),
                **KEYS,
                **self.chunking(spec),
            )
        self._write(made)

    def chunking(self, spec: ArraySpec) -> dict[str, Any]:
        """Return the arguments of `zarr.create_array` that store each block as one plain chunk."""
        return {"chunks": (1, spec.block_rows, *spec.row), "compressors": None}

    def _is_multilabel(self, array: str) -> bool:
        """Whether an array is labels with an axis of classes, by its metadata, or by its chunk if metadata are lost."""
        if array.rpartition("/")[2] != LABELS:
            return False
        folder = self.folder / array
        try:
            return len(parse(read_file(folder / ROOT))["shape"]) == 2
        except (OSError, UnfitError, KeyError, TypeError):
            return (folder / "c.0.0").exists()

    def _write(self, made: dict[str, Any], *, replace: bool = True) -> None:
        """Write durably the files that zarr made in memory, except the root (the manifest) and unchanged files."""
        for name, data in made.items():
            if name != ROOT:
                self._write_one(self.folder / name, data.to_bytes(), replace=replace)

    def _write_one(self, path: Place, content: bytes, *, replace: bool) -> None:
        if not (path.exists() and path.read_bytes() == content):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, content, temporary_for(path), replace=replace)


def _attributes_of(root: bytes) -> dict[str, Any]:
    """Return the attributes in the metadata of a Zarr group, or {} if it has none.

    Raises:
        UnfitError: `root` is not JSON.
    """
    group = parse(root)
    attributes = group.get("attributes") if isinstance(group, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _whole_axes(array: str) -> list[str]:
    return ["statistic", "channel"] if array.endswith(CHANNELS) else ["image", "class"]


def _dimensions(spec: ArraySpec) -> list[str]:
    """Name the axes: a pooled vector has no tokens, a scale no channels."""
    names = list(DIMENSIONS[: 2 + len(spec.row)])
    return [*names[:2], "channel"] if spec.name.rpartition("/")[2] in POOLED else names
