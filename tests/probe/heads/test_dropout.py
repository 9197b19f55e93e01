"""Seeded dropout: its rate, its independence, and that cells drop alone what they drop in a stack."""

import pytest
import torch

from tokenprobe.probe.heads.dropout import SeededDropout

ONES = torch.ones(64, 1, 8, 25)


def kept(rate: float, seed: int, step: int) -> torch.Tensor:
    dropout = SeededDropout(rate, [seed])
    dropout.begin_step(step)
    return dropout(ONES) > 0


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
def test_the_rate_is_kept_and_the_mean_stays(rate: float) -> None:
    dropout = SeededDropout(rate, [0])
    dropout.begin_step(1)
    values = dropout(ONES)
    n, deviation = values.numel(), (rate * (1 - rate) / values.numel()) ** 0.5
    assert abs(float((values == 0).sum()) / n - rate) < 5 * deviation
    torch.testing.assert_close(values[values > 0], torch.full_like(values[values > 0], 1 / (1 - rate)))


def test_choices_of_seeds_and_steps_do_not_depend_on_one_another() -> None:
    """Correlations of n = 12,800 choices are below five times 1/sqrt(n), neighbours within one draw included."""
    draws = [kept(0.5, seed, step).double().flatten() for seed in (0, 1, 2) for step in (1, 2, 1000)]
    draws += [draws[0].roll(1), draws[0].roll(25)]
    found = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0).abs().max()
    assert 0 < found < 5 / 12800**0.5


def test_cells_drop_alone_what_they_drop_in_a_stack() -> None:
    values, seeds = torch.rand(6, 3, 4, 5), [7, 0, 7]
    stacked = SeededDropout(0.4, seeds)
    stacked.begin_step(12)
    together = stacked(values)
    for cell, seed in enumerate(seeds):
        alone = SeededDropout(0.4, [seed])
        alone.begin_step(12)
        assert torch.equal(alone(values[:, cell : cell + 1]), together[:, cell : cell + 1])
    ones = stacked(torch.ones_like(values))
    assert torch.equal(ones[:, 0], ones[:, 2]) and not torch.equal(ones[:, 0], ones[:, 1])


def test_nothing_is_dropped_outside_of_training() -> None:
    assert torch.equal(SeededDropout(0.5, [0]).eval()(ONES), ONES)
    assert torch.equal(SeededDropout(0.0, [0])(ONES), ONES)
