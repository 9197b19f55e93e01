"""Tokens that are not finite, by bit rot or another writer: no head can be fitted on them, and its results say why."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...runtime.text import plural
from ...store.order import RowNumbers
from ..batches.stream import TokenStream


def describe_damage(stream: TokenStream, rows: RowNumbers, kinds: Iterable[str]) -> str | None:
    """Say how many training images have a token that is not finite, of view 0; None if all are finite.

    Args:
        stream: of the training rows.
        rows: sorted.
        kinds: arrays that are read.
    """
    return damage_text(
        (damaged_images(batch.arrays.values()) for batch in stream.in_order(rows, list(kinds))), len(rows)
    )


def damage_text(damaged: Iterable[Tensor], n_images: int) -> str | None:
    """Say how many training images are damaged, from parts of a mask over them; None if no one is."""
    n_damaged = sum(int(part.sum()) for part in damaged)
    if not n_damaged:
        return None
    has = plural(n_damaged, "has", "have")
    return f"{n_damaged:,} of {n_images:,} training images {has} tokens that are not finite"


def damaged_images(arrays: Iterable[Tensor]) -> Tensor:
    """Return the mask (B,) of images of which some number in some array, (B, …), is not finite."""
    return torch.stack([~values.flatten(1).isfinite().all(1) for values in arrays]).any(0)
