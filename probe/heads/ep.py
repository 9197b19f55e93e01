r"""EP, efficient probing (arXiv 2506.10178, section 3; `poolings/ep.py` of its reference implementation).

Q learned queries u_q attend over the tokens at full width, without a key projection; each has its own block of
the value projection W, and the blocks' outputs are concatenated:

    a_q = softmax_n(u_q . x_n / sqrt(D)),    y_q = sum_n a_qn W_q x_n,    y = [y_1 … y_Q]

with W_q the q-th block of D/(d_out Q) rows of W. Folded, y_q = W_q (sum_n a_qn x_n): Q products with the blocks
of W replace N products with all of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import QueryPooling
from .folded import attend_values
from .initial import uniform_initial
from .pooling import TOKENS, PoolingSettings


@dataclass(frozen=True)
class EPSettings(PoolingSettings):
    """Settings of EP."""

    queries: Annotated[int, "Attention maps; 1 or more, and a divisor of D/d_out."] = 32
    d_out: Annotated[int, "The output is D/d_out wide; 1 or more, and a divisor of D."] = 1
    tokens: Annotated[str, TOKENS] = "patch"


class EfficientProbing(QueryPooling):
    """Multi-query cross-attention pooling without keys.

    Parameters, for H cells: `queries` (H, Q, D) and `value` (H, D/d_out, D).
    """

    name = "ep"
    title = "EP"
    summary = "Learned queries attend over the tokens; each gives one block of the output."
    source = "arXiv 2506.10178, section 3"
    settings = EPSettings()
    reference_names: Mapping[str, str] = {"cls_token": "queries", "v.weight": "value"}
    queries: Tensor
    value: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        queries, d_out, dim = self.settings.queries, self.settings.d_out, self.dim
        if queries < 1 or d_out < 1 or dim % d_out or dim // d_out % queries:
            raise InputError(
                f"ep with queries={queries}, d_out={d_out} on tokens {dim} wide: d_out must divide the width, and "
                f"queries must divide the output's width ({dim}/{d_out})"
            )
        self.out_dim = dim // d_out

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        value = uniform_initial(self.out_dim, self.dim, fan_in=self.dim, generator=generator)
        return {"value": value, "queries": 0.02 * torch.randn(self.settings.queries, self.dim, generator=generator)}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        return attend_values(x_BND, self.folded_queries(x_BND), self.value).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        bank_1HQD: Tensor = self.queries[None] * self.dim**-0.5
        return bank_1HQD
