"""How long a regime trains and when it is scored, against counting."""

import numpy as np
import pytest

from tokenprobe.probe.grid.regimes import (
    Regime,
    default_batch_size,
    default_warmup,
    repeats,
    scored_epochs,
    scored_together,
)


def make_regime(n_train: int, batch_size: int, scored: tuple[int, ...], shots: str = "full") -> Regime:
    return Regime(shots, (0,), np.arange(n_train), np.arange(0), batch_size, scored[-1], 1.0, scored)


@pytest.mark.parametrize(("n_train", "batch_size"), [(10, 10), (10, 3), (64, 32), (65, 32)])
def test_steps_are_whole_batches(n_train: int, batch_size: int) -> None:
    steps = sum(start + batch_size <= n_train for start in range(0, n_train, batch_size))
    assert make_regime(n_train, batch_size, (1,)).n_steps == steps


@pytest.mark.parametrize("epochs", [1, 7, 90])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("min_steps", [0, 1, 90, 91, 1000])
def test_epochs_are_repeated_until_there_are_enough_steps(epochs: int, steps: int, min_steps: int) -> None:
    found = repeats(epochs, steps, min_steps)
    assert found == next(times for times in range(1, 2000) if times * epochs * steps >= min_steps)


def test_full_data_is_scored_after_every_epoch() -> None:
    assert scored_epochs(5, 5, 100, 10_000, "full") == (1, 2, 3, 4, 5)
    assert scored_epochs(3, 6, 4, 10_000, "full") == (2, 4, 6)  # passed over twice an epoch


@pytest.mark.parametrize(("n_train", "n_scorings"), [(10, 10), (160, 10), (1000, 45), (1999, 90), (5000, 90)])
def test_a_small_subset_is_scored_ten_times_or_for_as_much_as_its_training_costs(n_train: int, n_scorings: int) -> None:
    scored = scored_epochs(90, 90, n_train, 2000, "16")
    assert len(scored) == len(set(scored)) == n_scorings and scored[-1] == 90
    gaps = np.diff([0, *scored])
    assert gaps.max() - gaps.min() <= 1


def test_what_a_subsets_training_costs_counts_how_often_an_epoch_is_repeated() -> None:
    scored = scored_epochs(90, 3 * 90, 160, 2000, "16")
    assert len(scored) == 22 and scored[-1] == 270  # 270 passes over 160 images are 21.6 over 2000
    assert all(after % 3 == 0 for after in scored)
    assert scored_epochs(90, 2 * 90, 1000, 2000, "16") == tuple(range(2, 181, 2))


def test_few_epochs_are_all_scored() -> None:
    assert scored_epochs(4, 4, 10, 2000, "1") == (1, 2, 3, 4)


def test_between_two_scorings_lie_the_epochs_that_belong_to_the_second() -> None:
    made = make_regime(8, 4, (2, 3, 6))
    assert [list(made.epochs_before(scoring)) for scoring in range(3)] == [[0, 1], [2], [3, 4, 5]]


def test_regimes_scored_equally_often_share_passes() -> None:
    full, one = make_regime(8, 4, (1, 2)), make_regime(2, 2, (5, 10, 15), "1")
    two = make_regime(4, 2, (1, 2, 3), "2")
    assert scored_together([full, one, two]) == [[full], [one, two]]


@pytest.mark.parametrize("n_images", [1, 2, 5, 31, 32, 33, 63, 319, 320, 639, 640, 5000, 40_959, 40_960, 1_281_167])
def test_the_default_batch_leaves_ten_steps_an_epoch(n_images: int) -> None:
    size = default_batch_size(n_images)
    fitting = [2**power for power in range(13) if 10 * 2**power <= n_images]
    assert size == max([*fitting, min(n_images, 32)])


@pytest.mark.parametrize(("epochs", "expected"), [(90, 10), (900, 10), (45, 5), (4, 4 / 9)])
def test_the_default_warmup_is_ten_epochs_but_at_most_a_ninth(epochs: int, expected: float) -> None:
    assert default_warmup(epochs) == pytest.approx(expected, abs=1e-12)
