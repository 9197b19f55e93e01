"""EP: initial weights, settings, extreme logits, and the memory of a step."""

from itertools import accumulate
from math import sqrt
from typing import Any

import pytest
import torch
from torch import nn

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling

GRID = (3, 2)


def test_attention_is_the_softmax_over_tokens_of_each_query() -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 6, 24, dtype=torch.float64)
    plain: Any = build_pooling("ep", dim=24, grid=GRID, queries=4).double()
    stacked: Any = build_pooling("ep", dim=24, grid=GRID, queries=4, cells=3).double()
    assert plain.attention(x).shape == (5, 4, 6) and stacked.attention(x).shape == (5, 3, 4, 6)
    for maps in (plain.attention(x), stacked.attention(x)):
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1], dtype=torch.float64), rtol=0, atol=1e-12)
    expected = torch.einsum("hqd,bnd->bhqn", stacked.queries, x) / sqrt(24)
    expected = expected.exp() / expected.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(stacked.attention(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_survives_logits_that_overflow_an_exponential() -> None:
    pool: Any = build_pooling("ep", dim=4, grid=(1, 2), queries=1)
    with torch.no_grad():
        pool.queries.fill_(1000)
    x = torch.stack([torch.ones(4), 2 * torch.ones(4)])[None]
    torch.testing.assert_close(pool.attention(x), torch.tensor([[[0.0, 1.0]]]), rtol=0, atol=0)


def test_a_cells_seed_alone_decides_its_weights() -> None:
    pool: Any = build_pooling(
        "ep", dim=24, grid=GRID, queries=3, cells=3, generators=[torch.Generator().manual_seed(s) for s in (0, 1, 0)]
    )
    for parameter in pool.parameters():
        assert torch.equal(parameter[0], parameter[2])
        assert not torch.isclose(parameter[0], parameter[1]).any()


def test_initial_weights_are_those_of_torchs_modules_drawn_in_the_published_order() -> None:
    generators = [_seeded(11)]
    head = Head(build_pooling("ep", dim=24, grid=GRID, queries=3, generators=generators), 5, generators)
    torch.manual_seed(11)
    value = nn.Linear(24, 24, bias=False).weight
    queries = 0.02 * torch.randn(1, 3, 24)
    classifier = nn.Linear(24, 5)
    torch.testing.assert_close(head.pooling.get_parameter("value")[0], value)
    torch.testing.assert_close(head.pooling.queries, queries)
    torch.testing.assert_close(head.weight[0], classifier.weight)
    torch.testing.assert_close(head.bias[0], classifier.bias)


def test_initial_weights_have_the_published_distribution() -> None:
    pool: Any = build_pooling("ep", dim=192, grid=GRID, queries=48, generators=[_seeded(0)])
    bound = 192**-0.5
    # 4 standard errors of the sample standard deviation: normal 1/sqrt(2n), uniform sqrt(1/5n)
    assert 0.98 * bound < pool.value.max() <= bound and -bound <= pool.value.min() < -0.98 * bound
    assert abs(pool.value.std() / (bound / sqrt(3)) - 1) < 4 * sqrt(0.2 / pool.value.numel())
    assert abs(pool.queries.std() / 0.02 - 1) < 4 / sqrt(2 * pool.queries.numel())
    assert abs(pool.queries.mean()) < 4 * 0.02 / sqrt(pool.queries.numel())


@pytest.mark.parametrize(
    "settings",
    [{"queries": 5}, {"queries": 0}, {"queries": -1}, {"d_out": 5}, {"d_out": 0}, {"queries": 8, "d_out": 8}],
)
def test_settings_that_do_not_divide_the_width_are_refused(settings: dict[str, Any]) -> None:
    queries, d_out = settings.get("queries", 32), settings.get("d_out", 1)
    expected = rf"ep with queries={queries}, d_out={d_out} on tokens 32 wide: d_out must divide.*\(32/{d_out}\)"
    with pytest.raises(InputError, match=expected):
        build_pooling("ep", dim=32, grid=GRID, **settings)


def test_reference_weights_go_to_every_cell() -> None:
    torch.manual_seed(0)
    state = {"cls_token": torch.randn(1, 3, 24), "v.weight": torch.randn(24, 24)}
    pool: Any = build_pooling("ep", dim=24, grid=GRID, queries=3, cells=2)
    pool.load_reference(state)
    for cell in range(2):
        assert torch.equal(pool.queries[cell], state["cls_token"][0])
        assert torch.equal(pool.value[cell], state["v.weight"])


@pytest.mark.parametrize("cells", [1, 8])
def test_a_stacked_step_takes_little_more_than_its_maps_and_aggregates(cells: int) -> None:
    """Counted from the allocator's own record: deterministic, unlike the resident memory of a process."""
    n_images, n_tokens, dim, queries = 16, 64, 256, 32
    x = torch.randn(n_images, n_tokens, dim)
    pool: Any = build_pooling("ep", dim=dim, grid=(8, 8), queries=queries, cells=cells)
    pool(x).sum().backward()  # gradients are there before the count
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        profile_memory=True,
        acc_events=True,  # else torch 2.11 warns
    ) as profile:
        pool(x).sum().backward()
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(accumulate(sizes))
    of_weights = 4 * sum(parameter.numel() for parameter in pool.parameters())
    maps_and_aggregates = 4 * n_images * cells * queries * (n_tokens + dim)
    assert maps_and_aggregates < peak <= 2.5 * maps_and_aggregates + of_weights


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
