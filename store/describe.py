"""A store in words, for `probe info`."""

from ..errors import StoreError
from .journal import finished_files
from .layout import layer_index, layer_name
from .library import LibraryReader
from .reader import Split, Store


def describe(store: Store) -> list[str]:
    """Return what there is to know of a store without reading any token, a line each."""
    manifest, recipe = store.manifest, store.manifest.recipe
    arguments = ", ".join(f"{key}={value}" for key, value in recipe.model_args.items())
    order = ", seed ".join(map(str, recipe.row_order.values()))
    shapes = [manifest.layers[name] for name in sorted(manifest.layers, key=layer_index)]
    tokens = dict.fromkeys(
        f"{s.n_patches} patch ({s.grid[0]} × {s.grid[1]}) + {s.n_prefix} prefix, {s.dim} wide" for s in shapes
    )
    lines = [
        ("model", recipe.model + (f" ({arguments})" if arguments else "")),
        ("weights", recipe.weights[:16]),
        ("pixels", " × ".join(map(str, recipe.transform["input_size"])) + f", computed in {recipe.precision}"),
        ("dataset", manifest.dataset),
        ("layers", f"{', '.join(map(str, store.layers))} of {manifest.depth}"),
        ("tokens", "; ".join(tokens)),
        ("prefix", ", ".join(recipe.prefix_names) or "none"),
        ("dtype", recipe.dtype),
        ("rows", order),
        *((f"  {name}", _split_text(store[name])) for name in store.splits),
        ("bytes", _bytes_text(store)),
        ("health", "complete" if manifest.complete else "not complete"),
    ]
    return [f"{name:<10} {value}" for name, value in lines]


def _bytes_text(store: Store) -> str:
    if isinstance(store.files, LibraryReader):
        return "compressed or remote: read through the zarr library"
    return f"{sum(record.size for record in finished_files(store.files.folder).values()):,}"


def _split_text(split: Split) -> str:
    info = split.info
    left_out = f", {len(info.skipped)} unreadable left out" if info.skipped else ""
    views = f", {info.views} views" if info.views > 1 else ""
    text = (
        f"{info.n_images:,} images{views}, {len(info.classes)} classes, {info.n_blocks} blocks of {info.block_rows}"
        f"{left_out}"
    )
    unfinished = [str(layer) for layer in split.layers if not _is_finished(split, layer)]
    if unfinished:
        text += f"; not finished: layers {', '.join(unfinished)}"
    marks = {split.store.manifest.fingerprint(split.name, layer)[:12] for layer in split.layers[-1:]}
    return text + f"; fingerprint of {layer_name(split.layers[-1])} {marks.pop()}"


def _is_finished(split: Split, layer: int) -> bool:
    try:
        split.check_complete([layer])
    except StoreError:
        return False
    return True
