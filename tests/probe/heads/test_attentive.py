"""The small layers for stacked cells against torch's modules, cell by cell."""

import torch
from torch import nn

from tokenprobe.probe.heads.attentive import apply_linear, layer_norm, module_names

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def test_linear_is_each_cells_own() -> None:
    y, weight, bias = random(3, 5, 4), random(3, 2, 4), random(3, 2)
    for cell in range(3):
        expected = nn.functional.linear(y[cell], weight[cell], bias[cell])
        torch.testing.assert_close(apply_linear(y, weight, bias)[cell], expected, **CLOSE)
        torch.testing.assert_close(apply_linear(y, weight)[cell], y[cell] @ weight[cell].T, **CLOSE)


def test_layer_norm_is_torchs_without_weights_and_never_below_float32() -> None:
    y = random(3, 5, 4)
    torch.testing.assert_close(layer_norm(y, 1e-3), nn.LayerNorm(4, eps=1e-3, dtype=torch.float64)(y), **CLOSE)
    assert layer_norm(y.bfloat16(), 1e-3).dtype == torch.float32


def test_module_names_pair_weights_and_biases() -> None:
    assert module_names({"attn.proj": "proj"}) == {"attn.proj.weight": "proj_weight", "attn.proj.bias": "proj_bias"}
    assert module_names({"a.q": "q"}, ["weight"]) == {"a.q.weight": "q_weight"}
