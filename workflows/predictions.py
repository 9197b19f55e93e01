"""From logits to one row of predictions per image, and from the rows to a file."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..probe.run.saved import SavedHead
from ..runtime.text import csv_cell, printable
from ..store.durable import write_durably

LIKELY = 0.5
"""With several labels per image, the predicted classes are those with a score above this."""
SUFFIXES = (".csv", ".parquet", ".npz")
DIGITS = "%.4f"
"""Format of scores in tables that are text."""


def predicted_rows(ids: Sequence[str], logits: Tensor, about: SavedHead) -> list[dict[str, Any]]:
    """Turn the logits of a batch into rows.

    Args:
        ids: of the B images.
        logits: (B, classes) float32; estimates of ridge regression if `about.logits` is false.
        about: the head that computed them.

    Returns:
        One row per image with `image`, `predicted` and `score`: see `tokenprobe.workflows.predict.predict`.
    """
    scores = logits
    if about.logits:
        scores = logits.sigmoid() if about.multi_label else logits.softmax(1)
    rows = scores.tolist()
    if about.multi_label:
        chosen = [[i for i, score in enumerate(of_image) if score > LIKELY] for of_image in rows]
    else:
        chosen = scores.argmax(1, keepdim=True).tolist()
    return [
        {
            "image": name,
            "predicted": "|".join(about.classes[i] for i in labels),
            "score": "|".join(DIGITS % of_image[i] for i in labels) if about.multi_label else of_image[labels[0]],
        }
        for name, labels, of_image in zip(ids, chosen, rows, strict=True)
    ]


def as_csv(table: pd.DataFrame) -> str:
    """Return a table of predictions as the text of a CSV file."""
    return str(table.map(_cell).to_csv(index=False, float_format=DIGITS))


def _cell(value: Any) -> Any:
    return csv_cell(value) if isinstance(value, str) else value


def as_lines(table: pd.DataFrame) -> str:
    """Return a table of predictions as CSV for a terminal, with control characters in names escaped."""
    return as_csv(table.map(lambda value: printable(value) if isinstance(value, str) else value))


def write_predictions(table: pd.DataFrame, logits: Sequence[Tensor], about: SavedHead, out: str | Path) -> None:
    """Write predictions in the form given by a file's suffix.

    Args:
        table: one row per image.
        logits: of each batch, (B, classes) float32; only .npz keeps them.
        about: the head that computed them.
        out: a name that ends in one of `SUFFIXES`.
    """
    data, path = io.BytesIO(), Path(out)
    if path.suffix == ".npz":
        ids, classes = np.array(table["image"], dtype=str), np.array(about.classes, dtype=str)
        np.savez(data, ids=ids, classes=classes, logits=torch.cat(list(logits)).numpy())
    elif path.suffix == ".parquet":
        table.to_parquet(data, index=False)
    else:
        data.write(as_csv(table).encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data.getvalue())
