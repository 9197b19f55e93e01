"""A norm for stacked cells against torch's, names of modules, and maps of folded queries."""

from typing import Any

import pytest
import torch
from torch import nn

from tokenprobe.probe.heads import build_pooling
from tokenprobe.probe.heads.attentive import QueryPooling, layer_norm, module_names, statistics_names
from tokenprobe.probe.heads.pooling import PoolingSettings

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def test_layer_norm_is_torchs_without_weights_and_never_below_float32() -> None:
    y = random(3, 5, 4)
    torch.testing.assert_close(layer_norm(y, 1e-3), nn.LayerNorm(4, eps=1e-3, dtype=torch.float64)(y), **CLOSE)
    assert layer_norm(y.bfloat16(), 1e-3).dtype == torch.float32


def test_module_names_pair_weights_and_biases() -> None:
    assert module_names({"attn.proj": "proj"}) == {"attn.proj.weight": "proj_weight", "attn.proj.bias": "proj_bias"}
    assert module_names({"a.q": "q"}, ["weight"]) == {"a.q.weight": "q_weight"}


def test_statistics_names_are_those_of_torchs_batchnorm() -> None:
    assert {f"bn.{name}" for name, _ in nn.BatchNorm1d(3).named_buffers()} == set(statistics_names("bn"))
    assert statistics_names("a.bn") == {
        "a.bn.running_mean": "running_mean", "a.bn.running_var": "running_var", "a.bn.num_batches_tracked": None,
    }  # fmt: skip


def test_affine_is_each_cells_own_on_vectors_and_on_maps() -> None:
    pool: Any = build_pooling("simpool", dim=4, grid=(2, 3), cells=2).double()
    weight, bias = random(2, 4), random(1, 2, 4)[0]
    with torch.no_grad():
        pool.norm_weight.copy_(weight)
        pool.norm_bias.copy_(bias)
    y_HBD, z_BHMD = random(2, 3, 4), random(3, 2, 5, 4)
    for cell in range(2):
        for found, values in (
            (pool.affine("norm", y_HBD)[cell], y_HBD[cell]),
            (pool.affine("norm", z_BHMD)[:, cell], z_BHMD[:, cell]),
        ):
            torch.testing.assert_close(found, torch.einsum("...d,d->...d", values, weight[cell]) + bias[cell], **CLOSE)


class Queries(QueryPooling):
    """Two maps for each of two cells, from queries that differ by image."""

    name = "queries"

    def folded_queries(self, x_BND: torch.Tensor) -> torch.Tensor:
        return random(len(x_BND), 2, 2, x_BND.shape[2])

    def pool(self, x_BND: torch.Tensor) -> torch.Tensor:
        return self.attended(x_BND).flatten(2)

    def initial(self, generator: torch.Generator | None) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize("eps", [None, 0.3])
def test_a_query_pooling_attends_over_tokens_normed_with_its_eps(
    eps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queries, "token_eps", eps)
    x = 2 * random(3, 5, 4) + 1
    pool = Queries(PoolingSettings(), dim=4, grid=(5, 1), cells=2)
    tokens = x if eps is None else nn.LayerNorm(4, eps=eps, dtype=torch.float64)(x)
    powers = torch.einsum("bhmd,bnd->bhmn", pool.folded_queries(x), tokens).exp()
    maps = powers / powers.sum(-1, keepdim=True)
    torch.testing.assert_close(pool.attention(x), maps, **CLOSE)
    torch.testing.assert_close(pool.attended(x), torch.einsum("bhmn,bnd->bhmd", maps, tokens), **CLOSE)
