"""Batches that stay at one place in memory, where recorded work finds them."""

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from ..batches.token_batch import TokenBatch
from ..heads.rounding import convert_into

Form = tuple[tuple[str, ...], torch.dtype]
"""The arrays that a group reads, and their type."""


class Inputs(NamedTuple):
    """The batch as a step reads it.

    Attributes:
        tokens: (B, N, D), the arrays joined along the token axis.
        labels: (B,) or (B, C), as in `TokenBatch`.
    """

    tokens: Tensor
    labels: Tensor


class StaticBatches:
    """One place for every form of a batch. Groups that read the same form share it and take turns.

    Smaller batches use the front of a larger batch's place. A batch larger than all before gets a new place.
    """

    def __init__(self) -> None:
        """Start without places; the first batch of each form makes one."""
        self._places: dict[Form, Inputs] = {}
        self._loaded: dict[Form, weakref.ref[TokenBatch]] = {}

    @property
    def n_bytes(self) -> int:
        """Bytes of all places."""
        return sum(values.nbytes for place in self._places.values() for values in place)

    def place(self, batch: TokenBatch, form: Form) -> Inputs:
        """Return the place where `load` puts such a batch; it may hold another batch now."""
        found = self._places.get(form)
        if found is None or len(found.labels) < len(batch):
            found = self._places[form] = _make_place(batch, form)
            self._loaded.pop(form, None)
        return Inputs(*(values[: len(batch)] for values in found))

    def load(self, batch: TokenBatch, form: Form) -> Inputs:
        """Put a batch in its place, unless another group already did, and return it."""
        inputs, loaded = self.place(batch, form), self._loaded.get(form)
        if loaded is None or loaded() is not batch:
            arrays = _arrays(batch, form[0])
            targets = inputs.tokens.split([array.shape[1] for array in arrays], dim=1)
            for target, array in zip(targets, arrays, strict=True):
                convert_into(target, array)
            inputs.labels.copy_(batch.labels)
            self._loaded[form] = weakref.ref(batch)
        return inputs


def _make_place(batch: TokenBatch, form: Form) -> Inputs:
    kinds, dtype = form
    arrays = _arrays(batch, kinds)
    n_images, _, dim = arrays[0].shape
    tokens = arrays[0].new_empty((n_images, sum(array.shape[1] for array in arrays), dim), dtype=dtype)
    return Inputs(tokens, torch.empty_like(batch.labels))


def _arrays(batch: TokenBatch, kinds: tuple[str, ...]) -> list[Tensor]:
    """Return arrays of tokens, each (B, N, D)."""
    arrays = (batch.arrays[kind] for kind in kinds)
    return [array if array.ndim == 3 else array[:, None] for array in arrays]
