"""What the attentive poolings share: which tokens they read, their attention maps, small layers for stacked cells.

    B images, N tokens, D width, H cells, M maps a cell

Vectors that are no longer tokens are (H, B, width), so that a layer of every cell is one batched product.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError, unknown_name
from .pooling import Pooling

TOKENS = {"patch": ("patch",), "patch+prefix": ("prefix", "patch")}
"""What `tokens=` may be, and the arrays it reads in their order: prefix tokens come first."""


class AttentivePooling(Pooling):
    """A pooling that weighs the tokens of an image."""

    def __init__(self, dim: int, cells: int | None, tokens: str) -> None:
        """Set the width, of the output too, and the tokens to read.

        Raises:
            InputError: unknown `tokens`.
        """
        super().__init__(cells)
        if tokens not in TOKENS:
            raise unknown_name(f"setting tokens of {self.name}", tokens, TOKENS)
        self.dim, self.out_dim, self.inputs = dim, dim, TOKENS[tokens]

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
        """Apply `NAME_weight` (H, O, I) and, if there is one and it is wanted, `NAME_bias` (H, O) to (H, B, I)."""
        return apply_linear(
            y_HBI, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias", None) if bias else None
        )

    def norm(self, name: str, y_HBD: Tensor, eps: float) -> Tensor:
        """Apply a LayerNorm with `NAME_weight` and `NAME_bias`, both (H, D), in at least float32."""
        weight, bias = self.get_parameter(f"{name}_weight"), self.get_parameter(f"{name}_bias")
        return layer_norm(y_HBD, eps) * weight[:, None] + bias[:, None]

    def mlp(self, y_HBD: Tensor) -> Tensor:
        """Apply `fc1`, GELU, `fc2`."""
        return self.linear("fc2", F.gelu(self.linear("fc1", y_HBD)))

    def check_heads(self, heads: int) -> None:
        """Refuse a number of heads that does not divide the width.

        Raises:
            InputError: with the numbers near it that do.
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


def apply_linear(y_HBI: Tensor, weight_HOI: Tensor, bias_HO: Tensor | None = None) -> Tensor:
    """Return every cell's weight · y + bias, (H, B, O)."""
    if bias_HO is None:
        return torch.bmm(y_HBI, weight_HOI.transpose(1, 2))
    return torch.baddbmm(bias_HO[:, None], y_HBI, weight_HOI.transpose(1, 2))


def layer_norm(values: Tensor, eps: float) -> Tensor:
    """Return a LayerNorm over the last axis without weight and bias, in at least float32."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return F.layer_norm(values, values.shape[-1:], eps=eps)


def module_names(modules: Mapping[str, str], kinds: Iterable[str] = ("weight", "bias")) -> dict[str, str]:
    """Return reference names of whole modules: "attn.proj" and "proj" give "attn.proj.weight", "proj_weight"."""
    return {f"{theirs}.{kind}": f"{ours}_{kind}" for theirs, ours in modules.items() for kind in kinds}
