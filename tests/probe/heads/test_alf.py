"""Attentive layer fusion against vectors of the published probe, and its dropout against explicit sums."""

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling

OF_HEAD = {"bn.weight": "norm_weight", "bn.bias": "norm_bias", "classifier.weight": "weight", "classifier.bias": "bias"}
WITHOUT_GRADIENT = ("attn_block.cross_attn.proj.bias", "attn_block.norm_v.bias", "attn_block.norm_k.bias")
"""Constants over the images, which the BatchNorm subtracts again; and a constant over the tokens, before a softmax. The
file holds rounding errors for them."""


@pytest.fixture
def vectors(golden: Path) -> dict[str, Tensor]:
    with safe_open(golden / "heads" / "alf.safetensors", "pt") as file:
        assert file.metadata() == {"layers": "6", "heads": "12", "classes": "7"}
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture
def head(vectors: dict[str, Tensor]) -> Head:
    """The published probe with the file's weights: twelve heads, since there are twelve tokens."""
    found = Head(build_pooling("alf", dim=96, grid=(7, 7), n_layers=6), 7)
    given = {key.removeprefix("param/"): value for key, value in vectors.items() if key.startswith("param/")}
    found.pooling.load_reference({key: value for key, value in given.items() if key not in OF_HEAD})
    with torch.no_grad():
        for theirs, ours in OF_HEAD.items():
            getattr(found, ours)[0] = given[theirs]
        for name in ("running_mean", "running_var"):
            getattr(found, name)[0] = vectors[f"buffer/bn.{name}"]
    return found


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_outputs_equal_the_published_probe(head: Head, vectors: dict[str, Tensor]) -> None:
    assert_close(head.pooling(vectors["x"]), vectors["pooled"])
    assert_close(head.eval()(vectors["x"]), vectors["logits_eval"])
    assert_close(head.train()(vectors["x"]), vectors["logits_train"])
    for name in ("running_mean", "running_var"):
        assert_close(getattr(head, name)[0], vectors[f"after/bn.{name}"])


def test_gradients_equal_the_published_probe(head: Head, vectors: dict[str, Tensor]) -> None:
    (head.train()(vectors["x"]) * vectors["cotangent"]).sum().backward()
    expected = {key.removeprefix("grad/"): value for key, value in vectors.items() if key.startswith("grad/")}
    overall = sqrt(sum(float(gradient.norm()) ** 2 for gradient in expected.values()))
    names = head.pooling.reference_names
    for theirs, gradient in expected.items():
        owner, name = (head, OF_HEAD[theirs]) if theirs in OF_HEAD else (head.pooling, names[theirs])
        found = owner.get_parameter(name).grad
        if theirs in WITHOUT_GRADIENT:
            assert max(float(gradient.norm()), 0 if found is None else float(found.norm())) < 1e-7 * overall
        else:
            assert found is not None
            difference = (found[0].view(gradient.shape) - gradient).norm()
            assert difference <= 1e-5 * max(float(gradient.norm()), 1e-3 * overall), theirs


def test_dropout_drops_weights_of_the_tokens_and_scales_the_others() -> None:
    """Against values projected token by token, summed with the weights that the dropout module leaves."""
    pool: Any = build_pooling("alf", dim=12, grid=(1, 1), n_layers=4, dropout=0.5).double().train()
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pool.begin_step(3)
    weights = pool.dropout(pool.maps(x))
    assert 0.2 < (weights == 0).double().mean() < 0.8
    width = pool.v_weight.shape[1] // pool.heads
    values = F.layer_norm(x, (12,), pool.norm_v_weight[0], pool.norm_v_bias[0], 1e-5) @ pool.v_weight[0].T
    parts = [weights[:, 0, m][:, None] @ values[..., m * width : (m + 1) * width] for m in range(pool.heads)]
    expected = F.linear(torch.cat(parts, -1)[:, 0], pool.proj_weight[0], pool.proj_bias[0])
    torch.testing.assert_close(pool(x), expected)
    pool.eval()
    assert not torch.allclose(pool(x), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 13}, "alf with 13 heads on tokens 12 wide: expected 1 to 12"),
        ({"heads": -1}, "alf with -1 heads"),
        ({"n_layers": 7}, "alf with 14 heads on tokens 12 wide"),
        ({"dropout": 1.0}, r"alf with dropout=1.0: expected 0 or more, and less than 1"),
        ({"dropout": -0.1}, "alf with dropout=-0.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_pooling("alf", dim=12, grid=(2, 2), **settings)
