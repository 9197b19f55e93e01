"""Shared parts of the attentive poolings: their inputs, their attention maps, small layers for stacked cells.

    B images, N tokens, D width, H cells, M maps per cell

Pooled vectors are (H, B, width), so one batched product applies a layer of every cell.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError, unknown_name
from .folded import attend, logits, softmax, token_rstd
from .pooling import Pooling
from .products import apply_linear

TOKENS = {
    "patch": ("patch",),
    "patch+prefix": ("prefix", "patch"),
    "cls": ("cls",),
    "mean": ("mean",),
    "cls+mean": ("cls", "mean"),
}
"""The values of the setting `tokens`, and the arrays that each reads, in order: prefix tokens come first."""


class AttentivePooling(Pooling):
    """A pooling that weighs the tokens of an image."""

    def choose_inputs(self) -> tuple[str, ...]:
        """Return the arrays that the setting `tokens` names; a pooling without it reads patch tokens.

        Raises:
            InputError: unknown `tokens`.
        """
        tokens = getattr(self.settings, "tokens", "patch")
        known = {name: kinds for name, kinds in TOKENS.items() if "patch" in kinds or not self.needs_one_layer()}
        if tokens not in known:
            raise unknown_name(f"setting tokens of {self.name}", tokens, known)
        return TOKENS[tokens]

    @abstractmethod
    def maps(self, x_BND: Tensor) -> Tensor:
        """Return the attention maps of all cells, (B, H, M, N), in at least float32."""

    def attention(self, x_BND: Tensor) -> Tensor:
        """Return the attention maps (B, M, N), or (B, H, M, N) for stacked cells: the weights that `forward` uses.

        Each sums to 1 over the tokens, unless the pooling's docstring says otherwise.
        """
        maps = self.maps(x_BND)
        return maps if self.cells is not None else maps[:, 0]

    def linear(self, name: str, y_HBI: Tensor, *, bias: bool = True) -> Tensor:
        """Apply `NAME_weight` (H, O, I), and `NAME_bias` (H, O) if it exists and `bias` is true, to (H, B, I)."""
        return apply_linear(
            y_HBI, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None) if bias else None
        )

    def norm(self, name: str, y_HBD: Tensor, eps: float) -> Tensor:
        """Apply a LayerNorm with `NAME_weight` and `NAME_bias`, both (H, D), in at least float32."""
        return self.affine(name, layer_norm(y_HBD, eps))

    def affine(self, name: str, values: Tensor) -> Tensor:
        """Return `NAME_weight` ⊙ values + `NAME_bias`, both (H, D), for values (H, B, D) or (B, H, M, D)."""
        weight, bias = self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")
        return values * weight[:, None] + bias[:, None]

    def mlp(self, y_HBD: Tensor) -> Tensor:
        """Apply `fc1`, GELU, `fc2`."""
        return self.linear("fc2", F.gelu(self.linear("fc1", y_HBD)))

    def check_heads(self, heads: int) -> None:
        """Refuse a number of heads that does not divide the width.

        Raises:
            InputError: names near numbers that divide it.
        """
        if heads < 1 or self.dim % heads:
            near = sorted((n for n in range(1, self.dim + 1) if self.dim % n == 0), key=lambda n: abs(n - heads))[:4]
            raise InputError(
                f"{self.name} with heads={heads} on tokens {self.dim} wide: heads must divide the width; "
                f"give one of {', '.join(map(str, sorted(near)))}"
            )

    def check_mlp(self, mlp_ratio: int) -> None:
        """Refuse an MLP without hidden units.

        Raises:
            InputError: `mlp_ratio` is below 1.
        """
        if mlp_ratio < 1:
            raise InputError(f"{self.name} with mlp_ratio={mlp_ratio}: expected 1 or more")


class QueryPooling(AttentivePooling):
    """An attentive pooling with a_n = softmax_n(u · x_n) and z = sum_n a_n x_n, for folded queries u of its own.

    Attributes:
        token_eps: ε of the LayerNorm on x_n, whose weight and bias are folded; None without a LayerNorm.
    """

    token_eps: ClassVar[float | None] = None

    @abstractmethod
    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """Return u, (B, H, M, D), or (1, H, M, D) if it is the same for all images."""

    def attended(self, x_BND: Tensor) -> Tensor:
        """Return z, (B, H, M, D)."""
        return attend(x_BND, self.folded_queries(x_BND), self._token_rstd(x_BND))

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return softmax(logits(x_BND, self.folded_queries(x_BND), self._token_rstd(x_BND)))

    def _token_rstd(self, x_BND: Tensor) -> Tensor | None:
        return None if self.token_eps is None else token_rstd(x_BND, self.token_eps)


def layer_norm(values: Tensor, eps: float) -> Tensor:
    """Return a LayerNorm over the last axis without weight and bias, in at least float32."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return F.layer_norm(values, values.shape[-1:], eps=eps)


def module_names(modules: Mapping[str, str], kinds: Iterable[str] = ("weight", "bias")) -> dict[str, str]:
    """Return reference names of whole modules: "attn.proj" and "proj" give "attn.proj.weight", "proj_weight"."""
    return {f"{theirs}.{kind}": f"{ours}_{kind}" for theirs, ours in modules.items() for kind in kinds}


def statistics_names(module: str) -> dict[str, str | None]:
    """Return reference names of a BatchNorm's buffers: `Pooling.keep_statistics` makes ours."""
    names = {f"{module}.{kind}": kind for kind in ("running_mean", "running_var")}
    return {**names, f"{module}.num_batches_tracked": None}
