"""A store in words and tables, for `probe info`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..runtime.text import printable, size_text
from .array_spec import array_specs
from .health import Blocks, Stock, take_stock
from .layout import layer_index, layer_name
from .quantize import DTYPES
from .reader import Split, Store

if TYPE_CHECKING:
    from .audit import Audit, Cost

SHOWN_CLASSES = 10
AUDIT_HEADERS = (
    "layer",
    "largest\nvalue",
    "dtype",
    "bytes",
    "relative\nerror:\nmedian",
    "relative\nerror:\nworst",
    "1 - cos\nmedian",
    "1 - cos\nworst",
)
Line = tuple[str, str]


def describe(store: Store) -> list[str]:
    """Describe a store, one line per fact. Reads no token."""
    stock = take_stock(store)
    lines = [
        *_origin(store),
        *_contents(store),
        *(line for name in store.splits for line in _split_lines(store[name], stock)),
        ("bytes", _bytes_text(store, stock)),
        ("health", _health_text(store, stock)),
    ]
    return [printable(f"{name:<14} {value}") for name, value in lines]


def _origin(store: Store) -> list[Line]:
    """Name the model that made the tokens and the images it saw."""
    manifest, recipe = store.manifest, store.manifest.recipe
    arguments = ", ".join(f"{key}={value}" for key, value in recipe.model_args.items())
    return [
        ("store", f"{store.path}, {store.arrays.form}"),
        ("model", recipe.model + (f" ({arguments})" if arguments else "")),
        ("weights", f"sha256 {recipe.weights[:16]}"),
        ("pixels", " × ".join(map(str, recipe.transform["input_size"])) + f", computed in {recipe.precision}"),
        ("dataset", manifest.dataset),
    ]


def _contents(store: Store) -> list[Line]:
    """List the layers and tokens stored per image."""
    manifest, recipe = store.manifest, store.manifest.recipe
    shapes = [manifest.layers[name] for name in sorted(manifest.layers, key=layer_index)]
    tokens = dict.fromkeys(
        f"{s.n_patches} patch ({s.grid[0]} × {s.grid[1]}) + {s.n_prefix} prefix, {s.dim} wide" for s in shapes
    )
    returned = DTYPES[recipe.dtype].returned
    return [
        ("layers", f"{_range_text(store.layers)} of {manifest.depth}"),
        ("tokens", "; ".join(tokens)),
        ("prefix", ", ".join(recipe.prefix_names) or "none"),
        ("dtype", recipe.dtype + (f", read as {returned}" if str(returned) != recipe.dtype else "")),
        ("rows", ", seed ".join(map(str, recipe.row_order.values()))),
    ]


def _split_lines(split: Split, stock: Stock | None) -> list[Line]:
    info, last = split.info, split.layers[-1]
    drawn = ", ".join(f"{key}={value}" for key, value in (info.augmentation or {}).items())
    left_out = f", {len(info.skipped)} unreadable left out" if info.skipped else ""
    return [
        (split.name, f"{info.n_images:,} images, {len(info.classes):,} classes{left_out}"),
        ("  classes", _shortened(info.classes)),
        *_array_lines(split),
        ("  blocks", f"{info.n_blocks} of {info.block_rows} images"),
        ("  views", f"{info.views}: the evaluation transform" + (f", then draws with {drawn}" if drawn else "")),
        ("  fingerprint", f"{split.store.manifest.fingerprint(split.name, last)[:16]} (of layer {last})"),
        *(_unfinished_lines(split.name, stock) if stock else ()),
    ]


def _array_lines(split: Split) -> list[Line]:
    """List the stored arrays: one line for all layers with the same arrays."""
    by_kinds: dict[str, list[int]] = {}
    for layer in split.layers:
        by_kinds.setdefault(", ".join(split.info.layers[layer_name(layer)]), []).append(layer)
    return [("  arrays", f"{kinds} of {_layers_text(layers)}") for kinds, layers in by_kinds.items()]


def _unfinished_lines(split: str, stock: Stock) -> list[Line]:
    unfinished = {layer: blocks for (name, layer), blocks in stock.unfinished.items() if name == split}
    if not unfinished:
        return []
    return [("  unfinished", f"{_layers_text(sorted(unfinished))}: {_done_text(list(unfinished.values()))}")]


def _done_text(blocks: Sequence[Blocks]) -> str:
    least, most = (choose(each.n_done for each in blocks) for choose in (min, max))
    return f"{least}{f' to {most}' if most > least else ''} of {blocks[0].n_all} blocks are written"


def _bytes_text(store: Store, stock: Stock | None) -> str:
    plain = sum(spec.n_bytes for spec in array_specs(store.manifest))
    if stock is None:
        return f"{size_text(plain)} when uncompressed"
    saved = f", {stock.n_bytes / plain:.2f} of the uncompressed size" if store.arrays.is_compressed() else ""
    return size_text(stock.n_bytes) + saved


def _health_text(store: Store, stock: Stock | None) -> str:
    if not store.manifest.complete:
        return "not complete: finished layers can be read; run the same probe extract to go on, unless it is running"
    if stock is None:
        return "complete, according to its manifest"
    if stock.n_missing:
        return f"damaged: {stock.n_missing} of {stock.n_files} files are missing or cut short; probe verify names them"
    return "complete: every file is there; probe verify reads and checks them"


def _layers_text(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {_range_text(layers)}"


def _range_text(layers: Sequence[int]) -> str:
    """Return "3", "0 to 5" or "0, 5, 11"."""
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def _shortened(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN_CLASSES
    return ", ".join(names[:SHOWN_CLASSES]) + (f", … and {rest:,} more" if rest > 0 else "")


def audit_table(audit: Audit) -> Table:
    """Show an audit as a table for a terminal: one row per layer and smaller dtype."""
    table = Table(
        title=Text(f"patch tokens of {audit.n_images} images of {audit.split!r} as another dtype"),
        caption="bytes: as a fraction of the present ones",
    )
    for header in AUDIT_HEADERS:
        table.add_column(header, justify="left" if header == "dtype" else "right", no_wrap=True)
    for layer, costs in groupby(audit.costs, key=lambda cost: cost.layer):
        for row, cost in enumerate(costs):
            first = ("", "") if row else (str(layer), f"{cost.largest:.3g}")
            table.add_row(*first, cost.dtype, f"{cost.size:.2f}", *_error_cells(cost))
        table.add_section()
    return table


def _error_cells(cost: Cost) -> list[str]:
    if cost.overflows:
        return ["overflow", "overflow", "", ""]
    relative = [f"{100 * error:.3f}%" for error in (cost.relative.median, cost.relative.worst)]
    return [*relative, f"{cost.distance.median:.1e}", f"{cost.distance.worst:.1e}"]
