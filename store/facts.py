"""A store in numbers and names for scripts, `probe info --json`. `describe.py` says the same in words."""

from typing import Any

from .array_spec import array_specs
from .health import Stock, take_stock
from .journal import read_entries
from .layout import LayerShape, layer_index
from .objects import Place
from .reader import Split, Store

Json = dict[str, Any]


def facts(store: Store) -> Json:
    """Return the contents of a store and whether it is complete, as values for JSON. Reads no token."""
    manifest, recipe, stock = store.manifest, store.manifest.recipe, take_stock(store)
    files = store.arrays.journaled_files()
    return {
        "store": str(store.path),
        "form": store.arrays.form,
        "model": recipe.model,
        "model_args": dict(recipe.model_args),
        "weights": recipe.weights,
        "transform": dict(recipe.transform),
        "precision": recipe.precision,
        "dataset": manifest.dataset,
        "depth": manifest.depth,
        "layers": {str(layer_index(name)): _shape(shape) for name, shape in manifest.layers.items()},
        "prefix_names": list(recipe.prefix_names),
        "dtype": recipe.dtype,
        "row_order": dict(recipe.row_order),
        "splits": {name: _split(store[name], stock) for name in store.splits},
        "bytes": None if stock is None else stock.n_bytes,
        "uncompressed_bytes": sum(spec.n_bytes for spec in array_specs(manifest)),
        "complete": manifest.complete,
        "files": None if stock is None else stock.n_files,
        "missing_files": None if stock is None else stock.n_missing,
        "last_extraction": None if files is None else _last_finish(files.folder),
    }


def _shape(shape: LayerShape) -> Json:
    return {
        "grid": list(shape.grid),
        "dim": shape.dim,
        "patches": shape.n_patches,
        "prefix": shape.n_prefix,
        "embedding": shape.embedding,
    }


def _split(split: Split, stock: Stock | None) -> Json:
    info, fingerprint = split.info, split.store.manifest.fingerprint
    unfinished = {} if stock is None else stock.unfinished
    return {
        "images": info.n_images,
        "classes": list(info.classes),
        "skipped": list(info.skipped),
        "limit": info.limit,
        "arrays": {str(layer_index(name)): list(kinds) for name, kinds in info.layers.items()},
        "blocks": info.n_blocks,
        "block_rows": info.block_rows,
        "views": info.views,
        "augmentation": info.augmentation,
        "fingerprints": {str(layer): fingerprint(split.name, layer) for layer in split.layers},
        "unfinished": {
            str(layer): {"written": blocks.n_done, "blocks": blocks.n_all}
            for (name, layer), blocks in unfinished.items()
            if name == split.name
        },
    }


def _last_finish(folder: Place) -> dict[str, Any] | None:
    """Return the figures that the last finished extraction recorded: seconds, images and speed."""
    ends = [entry for entry in read_entries(folder) if entry.get("event") == "finish"]
    return {key: value for key, value in ends[-1].items() if key != "event"} if ends else None
