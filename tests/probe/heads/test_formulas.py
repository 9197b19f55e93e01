"""Every pooling against its formula of formulas.py, in float64, at 1e-10."""

from typing import Any

import pytest
import torch

from tokenprobe.probe.heads import build_pooling
from tokenprobe.probe.heads.attentive import AttentivePooling

from .facts import KNOWN
from .formulas import DIM, FORMULAS, GRID, Settings

N_PREFIX = 2
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
CASES = [(name, settings) for name, facts in KNOWN.items() if name in FORMULAS for settings in facts.cases]


def label(case: tuple[str, Settings]) -> str:
    name, settings = case
    return name + ":" + ",".join(f"{key}={value}" for key, value in settings.items())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_output_attention_and_gradients_equal_the_naive_formula(case: tuple[str, Settings], training: bool) -> None:
    name, settings = case
    pool = stirred(name, settings).train(training)
    n_tokens = 6 + N_PREFIX * (settings.get("tokens") == "patch+prefix")
    x = torch.randn(3, n_tokens, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = 2 * x + torch.linspace(-1, 2, DIM, dtype=torch.float64)
    ours = {key: value[0].detach().clone().requires_grad_() for key, value in pool.named_parameters()}
    statistics = {key: value[0].clone() for key, value in pool.named_buffers()}
    expected, maps = FORMULAS[name](x, ours, {**pool.defaults, **settings}, None if training else statistics)
    assert (maps is not None) == isinstance(pool, AttentivePooling), "a formula gives maps where a pooling does"
    if maps is not None:
        torch.testing.assert_close(pool.attention(x), maps, **CLOSE)
    pooled = pool(x)
    torch.testing.assert_close(pooled, expected, **CLOSE)
    if not ours:
        return
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (expected * cotangent).sum().backward()
    (pooled * cotangent).sum().backward()
    for key, parameter in pool.named_parameters():
        found, gradient = (torch.zeros(()) if g is None else g for g in (parameter.grad, ours[key].grad))
        torch.testing.assert_close(
            found.expand(parameter.shape)[0], gradient.expand(ours[key].shape).to(found), **CLOSE
        )


def stirred(name: str, settings: Settings) -> Any:
    """Build a pooling whose parameters and statistics are nowhere zeros, ones or tiny."""
    pool = build_pooling(name, dim=DIM, grid=GRID, **settings).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in pool.named_parameters():
            value.copy_(0.4 * torch.randn(value.shape, dtype=torch.float64, generator=generator))
            if "norm" in key or "bn" in key:
                value.add_(1)
        for key, statistic in pool.named_buffers():
            if key.startswith("running"):
                statistic.copy_(0.5 + torch.rand(statistic.shape, dtype=torch.float64, generator=generator))
    return pool
