"""The backbone's final norm, applied to stored tokens; the store keeps tokens from before the norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...store import Store
from ...store.layout import MEAN

Json = Mapping[str, Any]


def kept_norm(store: Store) -> Json:
    """Return the final norm that a store keeps: kind, eps, weight and bias, as its manifest has them.

    Raises:
        InputError: the store keeps no final norm.
    """
    kept: Json | None = store.manifest.final_norm
    if kept is None:
        raise InputError(
            f"norm 'final': the store {str(store.path)!r} holds no final norm of "
            f"{store.manifest.recipe.model!r}; give --norm none"
        )
    return kept


class FinalNorm(nn.Module):
    """LayerNorm or RMSNorm over the channels of every token, in at least float32."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, kind: str, eps: float, weight: Tensor | None, bias: Tensor | None) -> None:
        """Take the parameters, each (dim,) or None."""
        super().__init__()
        self.kind, self.eps = kind, eps
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @classmethod
    def from_json(cls, kept: Json) -> FinalNorm:
        """Return the norm of a kind, eps, weight and bias as manifests hold them."""
        weight, bias = (None if kept[name] is None else torch.tensor(kept[name]) for name in ("weight", "bias"))
        return cls(kept["kind"], kept["eps"], weight, bias)

    def check(self, layer: int, dim: int) -> None:
        """Refuse a layer whose tokens do not have the last layer's width, which is the norm's.

        Raises:
            InputError: the widths differ.
        """
        given = self.bias if self.weight is None else self.weight
        if given is not None and len(given) != dim:
            raise InputError(
                f"norm 'final': the tokens of layer {layer} are {dim} wide, but the final norm has "
                f"{len(given)} channels; leave this layer out of --layers, or give --norm none"
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the normed tokens (…, dim), in float64 for float64 tokens and else in float32."""
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        weight, bias = (None if value is None else value.to(tokens.dtype) for value in (self.weight, self.bias))
        if self.kind == "RMSNorm":
            return F.rms_norm(tokens, tokens.shape[-1:], weight, self.eps)
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, self.eps)


def is_derived(kind: str, *, normed: bool) -> bool:
    """Return whether an array must be made from the tokens: a mean of normed tokens is not the norm of the mean."""
    return normed and kind == MEAN
