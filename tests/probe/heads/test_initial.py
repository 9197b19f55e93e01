"""Initial weights against their distributions, and the order in which they are drawn."""

from math import sqrt

import pytest
import torch

from tokenprobe.probe.heads import build_pooling
from tokenprobe.probe.heads.initial import (
    linear_initial,
    mlp_initial,
    norm_initial,
    normal_initial,
    truncated_initial,
    uniform_initial,
)

from .facts import KNOWN
from .kit import DIM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_uniform_initial_fills_its_range_evenly() -> None:
    drawn = uniform_initial(100, 400, fan_in=16, generator=seeded())
    assert drawn.shape == (100, 400)
    counts = torch.histc(drawn, bins=10, min=-0.25, max=0.25)
    assert counts.sum() == 40_000  # all within the bounds
    assert ((counts - 4000).abs() < 5 * 3600**0.5).all()  # five standard deviations of a binomial


def test_normal_initial_has_its_deviation() -> None:
    drawn = normal_initial(100, 400, std=0.02, generator=seeded())
    assert abs(drawn.std() / 0.02 - 1) < 4 / sqrt(2 * 40_000)
    assert abs(drawn.mean()) < 4 * 0.02 / sqrt(40_000)
    assert drawn.abs().max() > 3 * 0.02


def test_truncated_initial_is_a_normal_distribution_cut_at_two_deviations() -> None:
    drawn = truncated_initial(100, 400, std=0.5, generator=seeded())
    assert 0.99 < drawn.abs().max() <= 1
    # variance of a standard normal within ±2: 1 − 4 φ(2) / (2 Φ(2) − 1)
    assert abs(drawn.std() / (0.5 * sqrt(1 - 4 * 0.0539910 / 0.9544997)) - 1) < 0.02


def test_linear_initial_is_torchs() -> None:
    drawn = linear_initial("proj", 6, 9, seeded(3))
    torch.manual_seed(3)
    layer = torch.nn.Linear(9, 6)
    torch.testing.assert_close(drawn["proj_weight"], layer.weight.data)
    torch.testing.assert_close(drawn["proj_bias"], layer.bias.data)
    assert set(linear_initial("k", 6, 9, None, bias=False)) == {"k_weight"}


def test_the_hidden_layer_of_an_mlp_is_drawn_before_its_output() -> None:
    drawn = mlp_initial(6, 4, seeded(3))
    torch.manual_seed(3)
    for name, layer in (("fc1", torch.nn.Linear(6, 24)), ("fc2", torch.nn.Linear(24, 6))):
        torch.testing.assert_close(drawn[f"{name}_weight"], layer.weight.data)
        torch.testing.assert_close(drawn[f"{name}_bias"], layer.bias.data)


@pytest.mark.parametrize("name", KNOWN)
def test_a_seed_gives_the_weights_that_it_always_gave(name: str) -> None:
    """A run is repeated from its seed, so that what is drawn and in which order must not change."""
    pool = build_pooling(name, dim=DIM, grid=(3, 2), generators=[seeded()])
    weights = [value.detach().double().flatten() for _, value in sorted(pool.named_parameters())]
    if not weights:
        assert KNOWN[name].drawn is None
        return
    found = float(torch.cat(weights) @ torch.arange(sum(map(len, weights))).double().cos())
    assert found == pytest.approx(KNOWN[name].drawn, abs=1e-3), (
        f"a seed gives {name} other weights than before. If it is new, add drawn={found:.5f} to its facts"
    )


def test_the_other_layers_have_their_names_and_sizes() -> None:
    sizes = {name: tuple(value.shape) for name, value in mlp_initial(6, 4, None).items()}
    assert sizes == {"fc1_weight": (24, 6), "fc1_bias": (24,), "fc2_weight": (6, 24), "fc2_bias": (6,)}
    norm = norm_initial("norm1", 5)
    assert norm["norm1_weight"].tolist() == [1] * 5 and norm["norm1_bias"].tolist() == [0] * 5


@pytest.mark.parametrize("draw", [normal_initial, truncated_initial])
def test_a_generator_alone_decides(draw: object) -> None:
    one, same, other = (draw(50, std=1, generator=seeded(seed)) for seed in (1, 1, 2))  # type: ignore[operator]
    assert torch.equal(one, same) and not torch.isclose(one, other).all()
