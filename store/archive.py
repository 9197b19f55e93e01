"""A compressed Zarr store, for keeping. Its tree, manifest and journal are the usual ones: it opens and verifies too.

A block stays one file: a Zarr shard of small chunks. Reading a few rows does not decompress the rest.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from .array_spec import ArraySpec
from .journal import Journal, file_record
from .layout import layer_index
from .manifest import Manifest
from .reader import Store
from .selection import Selection
from .small import read_small
from .writer import write_root
from .zarr_store import ZarrFiles

CHUNK_BYTES = 2**20
"""Target size of a chunk. Reading one row decompresses one chunk."""


class ArchiveFiles(ZarrFiles):
    """The files of a compressed Zarr store, for writing. Only the blocks differ from a plain store."""

    def chunking(self, spec: ArraySpec) -> dict[str, Any]:
        """See `ZarrFiles.chunking`.

        Level 4 is the lowest at which shuffling bytes helps: float16 tokens of a ViT shrink to 0.85 of their size.
        They shrink to 0.92 at level 3, and to 0.92 at any level without shuffling.
        """
        from zarr.codecs import BloscCodec

        return {
            "chunks": (1, chunk_rows(spec), *spec.row),
            "shards": (1, spec.block_rows, *spec.row),
            "compressors": BloscCodec(cname="zstd", clevel=4, shuffle="shuffle"),
        }


def chunk_rows(spec: ArraySpec) -> int:
    """Return the number of rows per chunk: the largest that fits `CHUNK_BYTES` and divides a block."""
    fitting = max(1, CHUNK_BYTES // spec.row_bytes)
    return max(n for n in range(1, min(fitting, spec.block_rows) + 1) if spec.block_rows % n == 0)


def write_archive(store: Store, folder: Path, chosen: Selection, progress: Callable[[int], None]) -> None:
    """Write part of a store to an empty folder.

    Args:
        store: an open store.
        folder: the empty folder.
        chosen: the arrays to write, in the store's own dtype.
        progress: called with the uncompressed bytes of each block written.
    """
    files, journal = ArchiveFiles(folder), Journal(folder)
    manifest = archive_manifest(store.manifest, chosen)
    try:
        journal.add_mark()
        journal.add_event("export", exported_config=store.recorded_settings, given=_given(store))
        journal.add_files(file_record(folder, name) for name in _write_small(store, files, manifest))
        for spec in chosen.specs(manifest):
            for view, block in product(range(spec.n_views), range(spec.n_blocks)):
                progress(_write_block(store, folder, spec, view, block))
                journal.add_files([file_record(folder, files.block_name(spec, view, block))])
        write_root(files, manifest, journal)
    finally:
        journal.close()


def _given(store: Store) -> list[str] | None:
    return store.extractions[-1].given if store.extractions else None


def archive_manifest(manifest: Manifest, chosen: Selection) -> Manifest:
    """Return the manifest of a complete archive of part of a store."""
    return replace(
        manifest,
        layers={name: shape for name, shape in manifest.layers.items() if name in chosen.layers},
        splits={
            split: replace(manifest.splits[split], layers={name: list(kinds) for name, kinds in layers.items()})
            for split, layers in chosen.arrays.items()
        },
        complete=True,
    )


def _write_small(store: Store, files: ArchiveFiles, manifest: Manifest) -> list[str]:
    """Write metadata, labels, ids and channel statistics; return the names of their files."""
    files.write_metadata(manifest)
    names = files.metadata_names(manifest)
    for array in files.whole_arrays(manifest):
        values = read_small(store.arrays, array)
        files.write_whole(array, values if values.dtype.kind in "if" else list(map(str, values)))
        names += files.whole_names(array)
    return names


def _write_block(store: Store, folder: Path, spec: ArraySpec, view: int, block: int) -> int:
    """Copy one block of an array; return its size in bytes."""
    import zarr

    split, layer, kind = spec.name.split("/")
    rows = spec.rows_of(block)
    values = store[split].tokens(layer_index(layer), rows, view=view, kind=kind, dtype=spec.type.stored)
    zarr.open_array(folder, path=spec.name, mode="r+")[view, rows.start : rows.stop] = values
    return values.nbytes
