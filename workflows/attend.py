"""`probe attend`: where the queries of a trained head look.

A head that reads patch tokens gives pictures: a map per query over the images, their merged map, and the queries merged
into parts. A head that reads stacked layers gives its attention over layers, per class.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import InputError
from ..probe.heads import Head
from ..probe.heads.attentive import AttentivePooling
from ..probe.report.attention import as_distributions, complementarity, entropy, find_parts, merge
from ..probe.report.best import BEST, best_cell
from ..probe.report.contents import gather
from ..probe.report.figures import attention as pictures
from ..probe.report.figures.canvas import save, styled
from ..probe.report.figures.layers import WORDS, layer_accuracy
from ..probe.run.results import Run
from ..probe.run.saved import SavedHead, load_saved, saved_cells
from ..runtime.device import resolve_device
from ..runtime.text import counted, plural, printable
from ..store.layout import PATCH
from ..store.outputs import check_folder
from .attend_layers import (
    FILES,
    Classes,
    attention_of,
    has_layers,
    layer_weights,
    weights_of_split,
    write_layers,
    write_table,
)
from .attended import Attended, from_images, from_store
from .config import AttendConfig
from .probed_model import configured_pipeline
from .run_stores import open_split

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
MERGED, CONTROL = "merged", "class token"
FOLDER = "attention"


@dataclass(frozen=True)
class Attention:
    """What `attend` found and wrote.

    Attributes:
        cell: name of the cell.
        folder: where the pictures and the table are.
        table: of patch tokens, one row per image and map: image, label, map ("1", "2", …, "merged" or "class token"),
            part (from 1; missing for the last two), weight (on patches), entropy and complementarity. Of a token or two
            per layer, it is `layers`.
        files: names of what is in the folder, with a description.
        facts: the means over images: entropy, merged_entropy, control_entropy and complementarity; and the parts, as
            lists of map numbers. Empty for a head that reads no patch tokens.
        maps: (images, maps, patches) float64, each summing to 1; None for a head that reads no patch tokens.
        layers: one row per class, layer and token: class (empty over all images), layer, token and weight. None for a
            head of patch tokens that does not read stacked layers.
    """

    cell: str
    folder: Path
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    files: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    maps: Array | None = None
    layers: pd.DataFrame | None = None


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
    found = Attention(cell, given or path / FOLDER / cell)
    seen, weights, classes = _look(path, cell, pooling, about, config)
    with styled(config.style):
        if PATCH in about.tokens and seen is not None:
            found = _attend_patches(found, about, seen, pooling)
        if has_layers(about):
            accuracy = None if Run(path).results.empty else layer_accuracy(gather([Run(path)]), cell)
            layers = write_layers(found.folder, weights, classes, about, accuracy)
            table = found.table if PATCH in about.tokens else layers
            found = replace(found, table=table, layers=layers, files=found.files | FILES)
    logger.info(f"{counted(len(weights), 'image')} by {cell} -> {found.folder}")
    return found


def _look(
    path: Path, cell: str, pooling: AttentivePooling, about: SavedHead, config: AttendConfig
) -> tuple[Attended | None, Array, Classes]:
    """Return the images to show, if any, the attention over layers of all images that are read, and their classes."""
    if config.images is not None:
        model = configured_pipeline(path, cell, config).to(resolve_device(config.device))
        given = from_images(model, str(config.images), config.n)
        return given, layer_weights(attention_of(pooling, given.tokens), about), {}
    split = open_split(path, cell, about, config.split)
    split.with_views(1).check_complete(about.layer_set.indices)
    seen = from_store(split, about, config.n) if PATCH in about.tokens else None
    if has_layers(about) or seen is None:
        return seen, *weights_of_split(split, about, pooling)
    return seen, layer_weights(attention_of(pooling, seen.tokens), about), {}


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
    if found.layers is not None:
        whole = found.layers[found.layers["class"] == ""]
        top = whole.loc[whole["weight"].idxmax()]
        print(f"most attention: {top['weight']:.2f}, {WORDS[top['token']]} of layer {top['layer']}")
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


def _attentive(head: Head, about: SavedHead, cell: str) -> AttentivePooling:
    if not isinstance(head.pooling, AttentivePooling):
        raise InputError(
            f"cell {cell!r} has no attention maps: its head is {about.head!r}; give a --cell of another head: "
            f"{', '.join(sorted(attentive_heads()))}"
        )
    return head.pooling


def _attend_patches(found: Attention, about: SavedHead, seen: Attended, pooling: AttentivePooling) -> Attention:
    maps, weight = spatial_maps(attention_of(pooling, seen.tokens), about)
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
    save(pictures.draw_mosaic(rows, seen.labels), found.folder, "attention")
    save(pictures.draw_mosaic([*rows[: seen.pixels is not None], *queries], seen.labels), found.folder, "maps")
    write_table(table, found.folder / "maps.csv")
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
    return replace(found, table=table, files=files, facts=facts, maps=maps)


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
