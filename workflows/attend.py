"""`probe attend`: where the queries of a trained head look.

A head that reads patch tokens gives pictures: a map per query over the images, their merged map, and the queries merged
into parts. A head that reads a class token or a mean per layer gives bars: its attention over layers, per class.
"""

import logging
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..probe.batches.layer_set import STACK
from ..probe.heads import Head
from ..probe.heads.attentive import AttentivePooling
from ..probe.report.attention import as_distributions, complementarity, entropy, find_parts, merge
from ..probe.report.best import BEST, best_cell
from ..probe.report.figures import attention as pictures
from ..probe.report.figures.canvas import save, styled
from ..probe.run.results import Run
from ..probe.run.saved import SavedHead, load_saved, saved_cells
from ..runtime.device import resolve_device
from ..runtime.text import counted, csv_cell, plural, printable
from ..store.durable import write_durably
from ..store.layout import PATCH
from ..store.outputs import check_folder
from .attended import Attended, from_images, from_store, open_split, stored_tokens
from .config import AttendConfig
from .probed_model import export_pipeline

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
MERGED, CONTROL = "merged", "class token"
ROWS_AT_ONCE = 1024
FOLDER = "attention"


@dataclass(frozen=True)
class Attention:
    """What `attend` found and wrote.

    Attributes:
        cell: name of the cell.
        folder: where the pictures and the table are.
        table: of patch tokens, one row per image and map: image, label, map ("1", "2", …, "merged" or "class token"),
            part (from 1; missing for the last two), weight (on patches), entropy and complementarity. Of a token or two
            per layer, one row per class, layer and token: class (empty over all images), layer, token and weight.
        files: names of what is in the folder, with a description.
        facts: the means over images: entropy, merged_entropy, control_entropy and complementarity; and the parts, as
            lists of map numbers. Empty for a head that reads no patch tokens.
        maps: (images, maps, patches) float64, each summing to 1; None for a head that reads no patch tokens.
    """

    cell: str
    folder: Path
    table: pd.DataFrame
    files: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    maps: Array | None = None


def attend(run: str | Path, config: AttendConfig) -> Attention:
    """Draw the attention maps of a trained head, and measure them.

    Args:
        run: a run folder.
        config: the cell, the images, and the output folder.

    Returns:
        The measures; the pictures are in the folder.

    Raises:
        TokenprobeError: a setting cannot be met, or the head has no attention maps; the message says what to do.
    """
    path = Path(run)
    given = None if config.out is None else check_folder(config.out)
    cell = attentive_cell(path) if config.cell == BEST else config.cell
    head, about = load_saved(path, cell, trust_code=config.trust_code)
    pooling = _attentive(head, about, cell)
    folder = given or path / FOLDER / cell
    if config.images is not None:
        model = export_pipeline(
            path,
            cell,
            model=config.model,
            checkpoint=config.checkpoint,
            checkpoint_key=config.checkpoint_key,
            trust_code=config.trust_code,
        ).to(resolve_device(config.device))
        seen = from_images(model, str(config.images), config.n)
        made = _attend_patches if PATCH in about.tokens else _attend_images_by_layer
        return made(cell, folder, pooling, about, seen)
    split = open_split(path, cell, about, config.split)
    split.check_complete(about.layer_set.indices)
    if PATCH in about.tokens:
        return _attend_patches(cell, folder, pooling, about, from_store(split, about, config.n))
    maps = [
        _attention(pooling, stored_tokens(split, about, np.arange(start, min(start + ROWS_AT_ONCE, len(split)))))
        for start in range(0, len(split), ROWS_AT_ONCE)
    ]
    labels = split.labels if split.labels.ndim == 2 else np.eye(len(split.classes), dtype=int)[split.labels]
    of_class = {name: labels[:, place] == 1 for place, name in enumerate(split.classes)}
    return _attend_layers(cell, folder, about, np.concatenate(maps), of_class)


def print_attention(found: Attention) -> None:
    """Print the measures and the list of files on stdout."""
    facts = found.facts
    if facts:
        control = facts["control_entropy"]
        also = "" if control is None else f", of class-token similarity {control:.2f}"
        print(
            f"entropy of a map {facts['entropy']:.2f} (0: one patch, 1: all alike), "
            f"of the merged map {facts['merged_entropy']:.2f}{also}"
        )
        if facts["complementarity"] is not None:
            print(f"complementarity of the maps {facts['complementarity']:.2f} (0: equal, 1: disjoint)")
        for number, maps in enumerate(facts["parts"], start=1):
            print(f"part {number}: {plural(len(maps), 'map', 'maps')} {', '.join(map(str, maps))}")
    else:
        whole = found.table[found.table["class"] == ""]
        top = whole.loc[whole["weight"].idxmax()]
        print(f"most attention: {top['weight']:.2f}, {pictures.WORDS[top['token']]} of layer {top['layer']}")
    print(f"\n{printable(str(found.folder))}/")
    for name, content in found.files.items():
        print(f"  {name:<24} {content}")


def attentive_cell(run: Path) -> str:
    """Return the best cell of a run whose head has attention maps; see `best_cell`."""
    found = Run(run)
    heads = {} if found.results.empty else dict(zip(found.results["cell"], found.results["head"], strict=True))
    among = {cell for cell in saved_cells(run) if heads.get(cell) in attentive_heads()}
    return best_cell(found, among, "cell whose head has attention maps")


def attentive_heads() -> set[str]:
    """Return the names of the heads that have attention maps."""
    from ..probe.heads import POOLINGS

    return {name for name, pooling in POOLINGS.items() if issubclass(pooling, AttentivePooling)}


def spatial_maps(maps_BMX: Array, about: SavedHead) -> tuple[Array, Array]:
    """Return the maps over the grid, and their weight on patches before they are divided by it.

    The maps of stacked layers are summed over layers. Prefix tokens, which have no place, are left out.

    Args:
        maps_BMX: of all tokens that the head reads: prefix tokens first, then patches, one layer after the other.
        about: the head.

    Returns:
        (B, M, patches), each summing to 1, and (B, M).
    """
    n_layers, n_patches = about.layer_set.n_stacked, about.grid[0] * about.grid[1]
    on_patches = maps_BMX[..., maps_BMX.shape[-1] - n_layers * n_patches :]
    summed = on_patches.reshape(*maps_BMX.shape[:2], n_layers, n_patches).sum(2)
    return as_distributions(summed), summed.sum(-1)


def layer_weights(maps_BMX: Array, about: SavedHead) -> Array:
    """Return the attention (B, kinds, layers), the mean over maps, of a head that reads a vector or two per layer."""
    mean: Array = maps_BMX.mean(1)
    return mean.reshape(len(mean), len(about.tokens), about.layer_set.n_stacked)


def _attentive(head: Head, about: SavedHead, cell: str) -> AttentivePooling:
    if not isinstance(head.pooling, AttentivePooling):
        raise InputError(
            f"cell {cell!r} has no attention maps: its head is {about.head!r}; give a --cell of another head: "
            f"{', '.join(sorted(attentive_heads()))}"
        )
    return head.pooling


def _attention(pooling: AttentivePooling, tokens: Tensor) -> Array:
    """Return the maps (B, M, tokens), float64."""
    with torch.inference_mode():
        return pooling.attention(tokens).double().numpy()


def _attend_patches(cell: str, folder: Path, pooling: AttentivePooling, about: SavedHead, seen: Attended) -> Attention:
    maps, weight = spatial_maps(_attention(pooling, seen.tokens), about)
    parts, merged = find_parts(maps), maps.mean(1)
    control = None if seen.similarity is None else as_distributions(seen.similarity.clip(min=0))
    table = _map_table(seen, maps, weight, parts, control)
    images = pictures.image_tiles(seen.pixels, len(seen.ids), about.grid)
    row, grid = pictures.Row, about.grid
    rows = [row("image", images)] if seen.pixels is not None else []
    rows.append(row("merged map", pictures.heat_tiles(images, merged, grid)))
    if parts.max() > 0:
        rows.append(row("parts", pictures.part_tiles(images, merge(maps, parts), grid)))
    if control is not None:
        rows.append(row("class token", pictures.heat_tiles(images, control, grid)))
    queries = [
        row(f"map {m + 1}", pictures.heat_tiles(images, maps[:, m], grid), pictures.PART_COLOURS[parts[m]])
        for m in np.argsort(parts, kind="stable")
    ]
    with styled("paper"):
        save(pictures.draw_mosaic(rows, seen.labels), folder, "attention")
        save(pictures.draw_mosaic([*rows[: seen.pixels is not None], *queries], seen.labels), folder, "maps")
    _write_table(table, folder / "maps.csv")
    files = {
        "attention.png": "merged map, parts and class token, also as .svg and .pdf",
        "maps.png": "every map, in the order of the parts, also as .svg and .pdf",
        "maps.csv": "entropy and complementarity per image and map",
    }
    facts = {
        "images": len(seen.ids),
        "entropy": float(entropy(maps).mean()),
        "merged_entropy": float(entropy(merged).mean()),
        "control_entropy": None if control is None else float(entropy(control).mean()),
        "complementarity": None if len(parts) == 1 else float(complementarity(maps).mean()),
        "parts": [[int(m) + 1 for m in np.flatnonzero(parts == part)] for part in range(parts.max() + 1)],
    }
    logger.info(f"{counted(len(seen.ids), 'image')} by {cell} -> {folder}")
    return Attention(cell, folder, table, files, facts, maps)


def _map_table(
    seen: Attended, maps: Array, weight: Array, parts: NDArray[np.int64], control: Array | None
) -> pd.DataFrame:
    columns = {"image": seen.ids, "label": seen.labels}
    entropies, distances = entropy(maps), complementarity(maps)
    tables = [
        pd.DataFrame(
            columns
            | {"map": str(m + 1), "part": parts[m] + 1, "weight": weight[:, m]}
            | {"entropy": entropies[:, m], "complementarity": distances[:, m]}
        )
        for m in range(maps.shape[1])
    ]
    whole = {MERGED: (maps.mean(1), weight.mean(1))} | ({} if control is None else {CONTROL: (control, np.nan)})
    tables += [
        pd.DataFrame(columns | {"map": name, "weight": on_patches, "entropy": entropy(found)})
        for name, (found, on_patches) in whole.items()
    ]
    table = pd.concat(tables, ignore_index=True).astype({"part": "Int64"})
    return table.sort_values("image", key=lambda ids: pd.factorize(ids)[0], kind="stable", ignore_index=True)


def _attend_images_by_layer(
    cell: str, folder: Path, pooling: AttentivePooling, about: SavedHead, seen: Attended
) -> Attention:
    return _attend_layers(cell, folder, about, _attention(pooling, seen.tokens), {})


def _attend_layers(
    cell: str, folder: Path, about: SavedHead, maps: Array, of_class: dict[str, NDArray[np.bool_]]
) -> Attention:
    weights = layer_weights(maps, about)
    chosen = {"": np.ones(len(weights), dtype=bool)} | {name: rows for name, rows in of_class.items() if rows.any()}
    layers = about.layer_set.text.removeprefix(STACK).split("+") if about.stacked else [about.layer_set.text]
    table = pd.DataFrame(
        [
            {"class": name, "layer": layer, "token": token, "weight": weights[rows, k, place].mean()}
            for name, rows in chosen.items()
            for place, layer in enumerate(layers)
            for k, token in enumerate(about.tokens)
        ]
    )
    with styled("paper"):
        save(pictures.draw_layer_bars(table), folder, "layers")
    _write_table(table, folder / "layers.csv")
    logger.info(f"{counted(len(weights), 'image')} by {cell} -> {folder}")
    files = {
        "layers.png": "attention over layers, also as .svg and .pdf",
        "layers.csv": "attention per class, layer and token",
    }
    return Attention(cell, folder, table, files)


def _write_table(table: pd.DataFrame, path: Path) -> None:
    names = table.columns.intersection(["image", "label", "class"])
    guarded = {name: table[name].map(csv_cell) for name in names}
    text = StringIO()
    table.assign(**guarded).to_csv(text, index=False, float_format="%.6f")
    write_durably(path, text.getvalue().encode())
