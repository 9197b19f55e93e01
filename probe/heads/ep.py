r"""EP, efficient probing (arXiv 2506.10178, section 3; `poolings/ep.py` of its reference implementation).

Q learned queries u_q attend over the tokens at full width, without a key projection; each owns one block of
the value projection W, and the blocks are concatenated:

    a_q = softmax_n(u_q . x_n / sqrt(D)),    y_q = sum_n a_qn W_q x_n,    y = [y_1 … y_Q]

with W_q the q-th block of D/(d_out Q) rows of W. W_q is linear and sees its own row of a alone, so it moves
behind the sum: z_q = sum_n a_qn x_n, y_q = W_q z_q. That is exact, and replaces N products with a D×D/d_out
matrix by Q products with its blocks.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ...errors import InputError
from .pooling import Pooling, uniform_initial


class EfficientProbing(Pooling):
    """Multi-query cross-attention pooling without keys.

    Parameters, for H cells: `queries` (H, Q, D) and `value` (H, D/d_out, D).
    """

    name = "ep"
    defaults: ClassVar[dict[str, Any]] = {"queries": 32, "d_out": 1}
    reference_names: ClassVar[dict[str, str]] = {"cls_token": "queries", "v.weight": "value"}
    queries: Tensor
    value: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        queries: int = 32,
        d_out: int = 1,
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Draw the parameters.

        Args:
            dim: width D of the tokens.
            grid: of the patch tokens; not used.
            queries: Q, number of attention maps; divides D/d_out.
            d_out: the output is D/d_out wide.
            cells: H, or None for a plain pooling.
            generators: one a cell.

        Raises:
            InputError: d_out does not divide D, or queries does not divide D/d_out.
        """
        super().__init__(cells)
        if queries < 1 or d_out < 1 or dim % d_out or dim // d_out % queries:
            raise InputError(
                f"ep with queries={queries}, d_out={d_out} on tokens {dim} wide: d_out must divide the width, and "
                f"queries must divide the output's width ({dim}/{d_out})"
            )
        self.dim, self.n_queries, self.out_dim = dim, queries, dim // d_out
        self.draw_cells(generators)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        value = uniform_initial(self.out_dim, self.dim, fan_in=self.dim, generator=generator)
        return {"value": value, "queries": 0.02 * torch.randn(self.n_queries, self.dim, generator=generator)}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        n_images, n_cells = len(x_BND), len(self.queries)
        z_BXD = self._attend(x_BND).to(x_BND.dtype) @ x_BND  # X = H·Q: all queries of all cells
        z_XBD = z_BXD.transpose(0, 1)
        y_XBO = torch.bmm(z_XBD, self.value.view(n_cells * self.n_queries, -1, self.dim).transpose(1, 2))
        return y_XBO.transpose(0, 1).reshape(n_images, n_cells, self.out_dim)

    def attention(self, x_BND: Tensor) -> Tensor:
        """Return the attention maps (B, Q, N), or (B, H, Q, N) for stacked cells; each sums to 1 over tokens."""
        maps = self._attend(x_BND).reshape(len(x_BND), -1, self.n_queries, x_BND.shape[1])
        return maps if self.cells is not None else maps[:, 0]

    def _attend(self, x_BND: Tensor) -> Tensor:
        """Return softmax_n(u . x_n / sqrt(D)) for all queries of all cells, (B, H·Q, N), in at least float32."""
        u_XD = self.queries.reshape(-1, self.dim) * self.dim**-0.5
        logits_BXN = u_XD @ x_BND.transpose(1, 2)
        maps_BXN: Tensor = logits_BXN.to(torch.promote_types(logits_BXN.dtype, torch.float32)).softmax(-1)
        return maps_BXN
