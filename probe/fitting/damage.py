"""Tokens that are not finite, from bit rot or another writer. No head can be fitted on them; the results say so."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...runtime.text import plural
from ...store.order import RowNumbers
from ..batches.stream import TokenStream


def describe_damage(stream: TokenStream, rows: RowNumbers, kinds: Iterable[str]) -> str | None:
    """Say how many training images have a token in view 0 that is not finite. Return None if all are finite.

    Args:
        stream: of the training rows.
        rows: sorted.
        kinds: arrays that are read.
    """
    return damage_text(
        (damaged_images(batch.arrays.values()) for batch in stream.in_order(rows, list(kinds))), len(rows)
    )


def damage_text(damaged: Iterable[Tensor], n_images: int) -> str | None:
    """Say how many training images are damaged, from the parts of their mask. Return None if none is damaged."""
    n_damaged = sum(int(part.sum()) for part in damaged)
    if not n_damaged:
        return None
    has = plural(n_damaged, "has", "have")
    return f"{n_damaged:,} of {n_images:,} training images {has} tokens that are not finite"


def damaged_images(arrays: Iterable[Tensor]) -> Tensor:
    """Return the mask (B,) of images with a value that is not finite in any of the arrays (B, …)."""
    return torch.stack([~values.flatten(1).isfinite().all(1) for values in arrays]).any(0)
