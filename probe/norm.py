"""The backbone's final norm, applied to stored tokens: they are kept as they were before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..store import Store

NORMS = ("none", "final")


class FinalNorm:
    """LayerNorm or RMSNorm over the channels of every token, in at least float32."""

    def __init__(self, kind: str, eps: float, weight: Tensor | None, bias: Tensor | None) -> None:
        """Take the parameters, each (dim,) or None."""
        self.kind, self.eps, self.weight, self.bias = kind, eps, weight, bias

    @classmethod
    def of(cls, store: Store, device: torch.device) -> FinalNorm:
        """Return the norm that a store keeps.

        Raises:
            InputError: it keeps none.
        """
        kept: dict[str, Any] | None = store.manifest.final_norm
        if kept is None:
            raise InputError(
                f"norm 'final' asked for, and {str(store.path)!r} keeps no final norm of "
                f"{store.manifest.recipe.model!r}; give --norm none"
            )
        values = (
            None if kept[name] is None else torch.tensor(kept[name], device=device) for name in ("weight", "bias")
        )
        return cls(kept["kind"], kept["eps"], *values)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the tokens (…, dim) normed, in float32, or in float64 if they are."""
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        weight, bias = (None if value is None else value.to(tokens.dtype) for value in (self.weight, self.bias))
        if self.kind == "RMSNorm":
            return F.rms_norm(tokens, tokens.shape[-1:], weight, self.eps)
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, self.eps)
