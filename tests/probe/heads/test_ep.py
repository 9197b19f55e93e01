"""EP against the reference vectors, a naive per-token float64 formula, and itself one cell at a time."""

from math import sqrt
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling

GRID = (3, 2)
SETTINGS = [(1, 1), (4, 1), (12, 1), (3, 2), (2, 4), (6, 2)]


def naive_ep(x: Tensor, queries: Tensor, value: Tensor) -> Tensor:
    """Project every token with the whole W_v, then let each query average its own block."""
    width = len(value) // len(queries)
    images = []
    for tokens in x:
        projected = torch.stack([value @ token for token in tokens])
        blocks = []
        for q, query in enumerate(queries):
            weights = torch.exp(torch.stack([query @ token / sqrt(x.shape[2]) for token in tokens]))
            mine = projected[:, q * width : (q + 1) * width]
            blocks.append(sum(w * row for w, row in zip(weights / weights.sum(), mine, strict=True)))
        images.append(torch.cat(blocks))
    return torch.stack(images)


@pytest.mark.parametrize(("name", "queries", "d_out"), [("ep", 8, 1), ("ep_dout2", 4, 2)])
def test_outputs_and_gradients_equal_the_reference_implementation(
    golden: Path, name: str, queries: int, d_out: int
) -> None:
    vectors = load_file(golden / f"{name}.safetensors")
    x = vectors["x"]
    pool = build_pooling("ep", dim=x.shape[2], grid=(7, 7), queries=queries, d_out=d_out)
    pool.load_reference({key[6:]: value for key, value in vectors.items() if key.startswith("param/")})
    for mode, expected in ((False, vectors["pooled_eval"]), (True, vectors["pooled_train"])):
        pooled = pool.train(mode)(x)
        assert pooled.shape == expected.shape
        assert (pooled - expected).norm() <= 1e-5 * expected.norm()
    (pooled * vectors["cotangent"]).sum().backward()
    expected_of = {"queries": vectors["grad/cls_token"], "value": vectors["grad/v.weight"]}
    assert set(expected_of) == {parameter for parameter, _ in pool.named_parameters()}
    overall = sqrt(sum(float(g.norm()) ** 2 for g in expected_of.values()))
    for parameter, expected in expected_of.items():
        found = pool.get_parameter(parameter).grad.view(expected.shape)
        assert (found - expected).norm() <= 1e-5 * max(float(expected.norm()), 1e-3 * overall), parameter


@pytest.mark.parametrize(("queries", "d_out"), SETTINGS)
def test_equals_the_naive_formula_in_float64(queries: int, d_out: int) -> None:
    torch.manual_seed(1)
    x = 3 * torch.randn(3, 6, 24, dtype=torch.float64)
    pool = build_pooling("ep", dim=24, grid=GRID, queries=queries, d_out=d_out).double()
    with torch.no_grad():
        pool.queries.mul_(50)  # attention far from uniform
    ours = [parameter[0].detach().clone().requires_grad_() for parameter in (pool.queries, pool.value)]
    expected, pooled = naive_ep(x, *ours), pool(x)
    assert pooled.shape == (3, 24 // d_out)
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(expected)
    (expected * cotangent).sum().backward()
    (pooled * cotangent).sum().backward()
    torch.testing.assert_close(pool.queries.grad[0], ours[0].grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pool.value.grad[0], ours[1].grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "settings", "total"),
    [
        ("ep", {"queries": 32}, 1_383_400),
        ("ep", {}, 1_383_400),
        ("ep", {"queries": 12}, 1_368_040),
        ("ep", {"queries": 1}, 1_359_592),
        ("ep", {"queries": 128, "d_out": 2}, 778_216),
        ("ep", {"queries": 48, "d_out": 8}, 207_592),
        ("linear", {}, 769_000),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, settings: dict[str, int], total: int) -> None:
    plain = Head(build_pooling(name, dim=768, grid=(14, 14), **settings), 1000)
    assert plain.n_params() == total == sum(parameter.numel() for parameter in plain.parameters())
    assert Head(build_pooling(name, dim=768, grid=(14, 14), cells=2, **settings), 1000).n_params() == total


def test_attention_is_the_softmax_over_tokens_of_each_query() -> None:
    torch.manual_seed(2)
    x = torch.randn(5, 6, 24, dtype=torch.float64)
    plain = build_pooling("ep", dim=24, grid=GRID, queries=4).double()
    stacked = build_pooling("ep", dim=24, grid=GRID, queries=4, cells=3).double()
    assert plain.attention(x).shape == (5, 4, 6) and stacked.attention(x).shape == (5, 3, 4, 6)
    for maps in (plain.attention(x), stacked.attention(x)):
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1], dtype=torch.float64), rtol=0, atol=1e-12)
    expected = torch.einsum("hqd,bnd->bhqn", stacked.queries, x) / sqrt(24)
    expected = expected.exp() / expected.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(stacked.attention(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_survives_logits_that_overflow_an_exponential() -> None:
    pool = build_pooling("ep", dim=4, grid=(1, 2), queries=1)
    with torch.no_grad():
        pool.queries.fill_(1000)
    x = torch.stack([torch.ones(4), 2 * torch.ones(4)])[None]
    torch.testing.assert_close(pool.attention(x), torch.tensor([[[0.0, 1.0]]]), rtol=0, atol=0)


def test_stacked_cells_equal_each_alone_in_outputs_and_gradients() -> None:
    x = torch.randn(3, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    cotangent = torch.randn(3, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    settings = {"dim": 24, "grid": GRID, "queries": 3, "d_out": 2}
    seeds = (5, 0, 7, 0)
    stacked = build_pooling("ep", cells=4, generators=[torch.Generator().manual_seed(s) for s in seeds], **settings)
    stacked.double()
    pooled = stacked(x)
    assert pooled.shape == (3, 4, 12)
    (pooled * cotangent).sum().backward()
    for cell, seed in enumerate(seeds):
        alone = build_pooling("ep", generators=[torch.Generator().manual_seed(seed)], **settings).double()
        assert torch.equal(alone.queries[0], stacked.queries[cell]) and torch.equal(alone.value[0], stacked.value[cell])
        one = alone(x)
        (one * cotangent[:, cell]).sum().backward()
        torch.testing.assert_close(pooled[:, cell], one, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stacked.queries.grad[cell], alone.queries.grad[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stacked.value.grad[cell], alone.value.grad[0], rtol=1e-12, atol=1e-12)


def test_a_cells_seed_alone_decides_its_weights() -> None:
    pool = build_pooling(
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
    torch.testing.assert_close(head.pooling.value[0], value)
    torch.testing.assert_close(head.pooling.queries, queries)
    torch.testing.assert_close(head.weight[0], classifier.weight)
    torch.testing.assert_close(head.bias[0], classifier.bias)


def test_initial_weights_have_the_published_distribution() -> None:
    pool = build_pooling("ep", dim=192, grid=GRID, queries=48, generators=[_seeded(0)])
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
def test_settings_that_do_not_divide_the_width_are_refused(settings: dict[str, int]) -> None:
    queries, d_out = settings.get("queries", 32), settings.get("d_out", 1)
    expected = rf"ep with queries={queries}, d_out={d_out} on tokens 32 wide: d_out must divide.*\(32/{d_out}\)"
    with pytest.raises(InputError, match=expected):
        build_pooling("ep", dim=32, grid=GRID, **settings)


def test_reference_weights_go_to_every_cell() -> None:
    torch.manual_seed(0)
    state = {"cls_token": torch.randn(1, 3, 24), "v.weight": torch.randn(24, 24)}
    pool = build_pooling("ep", dim=24, grid=GRID, queries=3, cells=2)
    pool.load_reference(state)
    for cell in range(2):
        assert torch.equal(pool.queries[cell], state["cls_token"][0])
        assert torch.equal(pool.value[cell], state["v.weight"])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
