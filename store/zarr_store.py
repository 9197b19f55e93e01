"""The Zarr v3 format: one folder an array, one uncompressed chunk file a (layer, view, block).

Token chunks are written and read by our own code (`writer.py`, `reader.py`). The zarr library writes the
metadata, labels and ids, and can open all of it.
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from .durable import write_durably
from .layout import MEAN, layer_index
from .manifest import Manifest

LABELS, IDS = "labels", "ids"
ROOT = "zarr.json"
MANIFEST_KEYS = {"format", "fingerprints"}
"""Root attributes by which a store is known from any other Zarr group."""
CHUNK_FILES: dict[str, Any] = {"chunk_key_encoding": {"name": "default", "separator": "."}, "compressors": None}
DIMENSIONS = {2: ["view", "image", "channel"], 3: ["view", "image", "token", "channel"]}


def array_dtype(kind: str, stored: str) -> np.dtype[Any]:
    """Return the numpy type of the array `kind` in a store whose tokens are stored as `stored`."""
    return np.dtype(np.float32 if kind == MEAN else stored)


class ZarrFiles:
    """Where everything of one Zarr store is, and how its metadata is read and written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def chunk_name(self, split: str, layer: str, kind: str, view: int, block: int) -> str:
        """Return the path, relative to the store, of one block of one array."""
        rest = ".0" if kind == MEAN else ".0.0"
        return f"{split}/{layer}/{kind}/c.{view}.{block}{rest}"

    def row_files(self, split: str) -> list[str]:
        """Return the relative paths of the files that hold the labels and ids of a split."""
        return [f"{split}/{name}/c.0" for name in (LABELS, IDS)]

    def token_files(self, manifest: Manifest) -> Iterator[str]:
        """Yield the relative path of every chunk file that a manifest declares."""
        for split, info in manifest.splits.items():
            for layer, kinds in info.layers.items():
                for view, block in product(range(manifest.views), range(info.n_blocks)):
                    for kind in kinds:
                        yield self.chunk_name(split, layer, kind, view, block)

    def exists(self) -> bool:
        """Whether there is a store here."""
        return self._attributes().keys() >= MANIFEST_KEYS

    def read_manifest(self) -> Manifest:
        """Read the root attributes.

        Raises:
            StoreError: not a store, or one of another format version.
        """
        attributes = self._attributes()
        if not attributes.keys() >= MANIFEST_KEYS:
            raise StoreError(
                f"{str(self.path)!r} is not a token store: it has no manifest; make one with probe extract"
            )
        return Manifest.from_json(attributes)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the root attributes in one step that survives a crash."""
        root = {"zarr_format": 3, "node_type": "group", "attributes": manifest.to_json()}
        write_durably(self.path / ROOT, json.dumps(root, indent=1, sort_keys=True).encode())

    def mark_incomplete(self) -> None:
        """Take back the claim that everything is there, whatever the format version."""
        root = json.loads((self.path / ROOT).read_bytes())
        root["attributes"]["complete"] = False
        write_durably(self.path / ROOT, json.dumps(root, indent=1, sort_keys=True).encode())

    def create_arrays(self, manifest: Manifest) -> None:
        """Write the metadata of every declared token array."""
        import zarr

        made: dict[str, Any] = {}
        for split, info in manifest.splits.items():
            for layer, kinds in info.layers.items():
                shape = manifest.shape(layer_index(layer))
                for kind in kinds:
                    row = shape.row_shape(kind)
                    zarr.create_array(
                        zarr.storage.MemoryStore(made),
                        name=f"{split}/{layer}/{kind}",
                        shape=(manifest.views, info.n_images, *row),
                        chunks=(1, info.block_rows, *row),
                        dtype=array_dtype(kind, manifest.recipe.dtype),
                        fill_value=float("nan"),
                        dimension_names=DIMENSIONS[1 + len(row)],
                        **CHUNK_FILES,
                    )
        self._write(made)

    def write_rows(self, split: str, labels: npt.NDArray[np.int64], ids: list[str]) -> None:
        """Write the labels and ids of a split, in row order."""
        import zarr

        made: dict[str, Any] = {}
        for name, values in ((LABELS, labels), (IDS, np.array(ids, dtype=object))):
            array = zarr.create_array(
                zarr.storage.MemoryStore(made),
                name=f"{split}/{name}",
                shape=(len(values),),
                chunks=(len(values),),
                dtype=np.int64 if name == LABELS else str,
                dimension_names=["image"],
                config={"write_empty_chunks": True},
                **CHUNK_FILES,
            )
            array[:] = values
        self._write(made)

    def _write(self, made: dict[str, Any]) -> None:
        """Write what zarr made in memory, durably, but for the root, which is the manifest."""
        for name, data in made.items():
            if name != ROOT:
                path = self.path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(path, data.to_bytes())

    def read_rows(self, split: str, name: str) -> npt.NDArray[Any]:
        """Read the labels or the ids of a split.

        Raises:
            StoreError: they are not there; zarr would give its fill value.
        """
        import zarr

        folder = self.path / split / name
        if not (folder / "c.0").exists() or not (folder / ROOT).exists():
            raise StoreError(f"{str(folder)!r} is not whole; run the same probe extract again")
        return np.asarray(zarr.open_array(self.path, path=f"{split}/{name}", mode="r")[:])

    def _attributes(self) -> dict[str, Any]:
        try:
            root = json.loads((self.path / ROOT).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            raise StoreError(
                f"{str(self.path / 'zarr.json')!r} is damaged ({error}); restore it, or remove the store"
            ) from error
        attributes = root.get("attributes") if isinstance(root, dict) else None
        return attributes if isinstance(attributes, dict) else {}
