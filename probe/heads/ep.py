r"""EP, efficient probing (arXiv 2506.10178, section 3; `poolings/ep.py` of its reference implementation).

Q learned queries u_q attend over the tokens at full width, without a key projection; each owns one block of
the value projection W, and the blocks are concatenated:

    a_q = softmax_n(u_q . x_n / sqrt(D)),    y_q = sum_n a_qn W_q x_n,    y = [y_1 … y_Q]

with W_q the q-th block of D/(d_out Q) rows of W. Folded, y_q = W_q (sum_n a_qn x_n): Q products with the blocks
of W replace N products with all of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import AttentivePooling
from .folded import attend, logits, project_blocks, softmax
from .initial import uniform_initial


class EfficientProbing(AttentivePooling):
    """Multi-query cross-attention pooling without keys.

    Parameters, for H cells: `queries` (H, Q, D) and `value` (H, D/d_out, D).
    """

    name = "ep"
    defaults: ClassVar[dict[str, Any]] = {"queries": 32, "d_out": 1, "tokens": "patch"}
    reference_names: Mapping[str, str] = {"cls_token": "queries", "v.weight": "value"}
    queries: Tensor
    value: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        queries: int = 32,
        d_out: int = 1,
        tokens: str = "patch",
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Draw the parameters.

        Args:
            dim: width D of the tokens.
            grid: of the patch tokens; not used.
            queries: Q, number of attention maps; divides D/d_out.
            d_out: the output is D/d_out wide.
            tokens: "patch" or "patch+prefix".
            cells: H, or None for a plain pooling.
            generators: one a cell.

        Raises:
            InputError: d_out does not divide D, or queries does not divide D/d_out; unknown `tokens`.
        """
        super().__init__(dim, cells, tokens)
        if queries < 1 or d_out < 1 or dim % d_out or dim // d_out % queries:
            raise InputError(
                f"ep with queries={queries}, d_out={d_out} on tokens {dim} wide: d_out must divide the width, and "
                f"queries must divide the output's width ({dim}/{d_out})"
            )
        self.n_queries, self.out_dim = queries, dim // d_out
        self.draw_cells(generators)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        value = uniform_initial(self.out_dim, self.dim, fan_in=self.dim, generator=generator)
        return {"value": value, "queries": 0.02 * torch.randn(self.n_queries, self.dim, generator=generator)}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        return project_blocks(attend(x_BND, self._bank()), self.value).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return softmax(logits(x_BND, self._bank()))

    def _bank(self) -> Tensor:
        """Return u / sqrt(D) of all cells, (1, H, Q, D)."""
        bank_1HQD: Tensor = self.queries[None] * self.dim**-0.5
        return bank_1HQD
