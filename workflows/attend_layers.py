"""Attention over layers, of a head that reads stacked layers: per class, as a table and a picture."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..probe.batches.layer_set import STACK
from ..probe.batches.token_shape import CLS
from ..probe.heads.attentive import AttentivePooling
from ..probe.report.figures.canvas import save
from ..probe.report.figures.layers import LayerAccuracy, draw_over_layers
from ..probe.run.saved import SavedHead
from ..runtime.text import csv_cell
from ..store.durable import write_durably
from ..store.layout import MEAN, PATCH
from ..store.reader import Split
from .attended import spread_rows, stored_tokens

Array = NDArray[np.float64]
Classes = Mapping[str, NDArray[np.bool_]]
MOST_IMAGES = 2048
"""Images whose patch tokens are read: those of all layers of an image are large."""
CHUNK_BYTES = 2**26
FILES = {
    "layers.png": "attention over layers and the accuracy of each, also as .svg and .pdf",
    "layers.csv": "attention per class, layer and token",
}


def has_layers(about: SavedHead) -> bool:
    """Return whether a head attends over layers, or reads only vectors."""
    return about.stacked or PATCH not in about.tokens


def attention_of(pooling: AttentivePooling, tokens: Tensor) -> Array:
    """Return the maps (B, M, tokens), float64."""
    with torch.inference_mode():
        return pooling.attention(tokens).double().numpy()


def layer_weights(maps_BMX: Array, about: SavedHead) -> Array:
    """Return the attention (B, kinds, layers): the mean over maps, summed over the tokens of a kind and layer.

    Args:
        maps_BMX: of all tokens that the head reads: kind after kind, and of each kind layer after layer.
        about: the head.
    """
    mean_BX, n_layers = maps_BMX.mean(1), about.layer_set.n_stacked
    known = {PATCH: about.grid[0] * about.grid[1], CLS: 1, MEAN: 1}
    rest = mean_BX.shape[1] // n_layers - sum(known.get(kind, 0) for kind in about.tokens)
    ends = np.cumsum([n_layers * known.get(kind, rest) for kind in about.tokens])
    parts = np.split(mean_BX, ends[:-1], axis=1)
    return np.stack([part.reshape(len(mean_BX), n_layers, -1).sum(-1) for part in parts], axis=1)


def weights_of_split(split: Split, about: SavedHead, pooling: AttentivePooling) -> tuple[Array, Classes]:
    """Return the attention over layers of a split's images, and which of them are of each class.

    A head that reads patch tokens is shown at most `MOST_IMAGES` images, of as many classes as possible.
    """
    rows, at_once = np.arange(len(split)), MOST_IMAGES
    if PATCH in about.tokens:
        rows = np.sort(spread_rows(split.labels, MOST_IMAGES))
        at_once = max(1, CHUNK_BYTES // (4 * about.dim * about.layer_set.n_stacked * about.grid[0] * about.grid[1]))
    weights = [
        layer_weights(attention_of(pooling, stored_tokens(split, about, rows[start : start + at_once])), about)
        for start in range(0, len(rows), at_once)
    ]
    labels = split.labels if split.labels.ndim == 2 else np.eye(len(split.classes), dtype=int)[split.labels]
    return np.concatenate(weights), {name: labels[rows, place] == 1 for place, name in enumerate(split.classes)}


def write_layers(
    folder: Path, weights_BKL: Array, classes: Classes, about: SavedHead, accuracy: LayerAccuracy | None
) -> pd.DataFrame:
    """Draw and write the attention over layers, in the current style.

    Args:
        folder: of the files.
        weights_BKL: from `layer_weights`.
        classes: for each class, which of the B images are of it.
        about: the head.
        accuracy: of the single layers of its run, or None.

    Returns:
        One row per class, layer and token: class (empty over all images), layer, token, weight.
    """
    chosen = {"": np.ones(len(weights_BKL), dtype=bool)} | {name: rows for name, rows in classes.items() if rows.any()}
    layers = about.layer_set.text.removeprefix(STACK).split("+") if about.stacked else [about.layer_set.text]
    table = pd.DataFrame(
        [
            {"class": name, "layer": layer, "token": token, "weight": weights_BKL[rows, k, place].mean()}
            for name, rows in chosen.items()
            for place, layer in enumerate(layers)
            for k, token in enumerate(about.tokens)
        ]
    )
    save(draw_over_layers(table, accuracy), folder, "layers")
    write_table(table, folder / "layers.csv")
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, with texts that no spreadsheet takes for a formula."""
    names = table.columns.intersection(["image", "label", "class"])
    guarded = {name: table[name].map(csv_cell) for name in names}
    text = StringIO()
    table.assign(**guarded).to_csv(text, index=False, float_format="%.6f")
    write_durably(path, text.getvalue().encode())
