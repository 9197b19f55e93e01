"""How long a course is and when it is scored, against counting."""

import numpy as np
import pytest

from tokenprobe.probe.course import Course, in_step, repeats, scored_epochs


def course(n_train: int, batch_size: int, scored: tuple[int, ...], shots: str = "full") -> Course:
    return Course(shots, (0,), np.arange(n_train), np.arange(0), batch_size, scored[-1], 1.0, scored)


@pytest.mark.parametrize(("n_train", "batch_size"), [(10, 10), (10, 3), (64, 32), (65, 32)])
def test_steps_are_whole_batches(n_train: int, batch_size: int) -> None:
    steps = sum(start + batch_size <= n_train for start in range(0, n_train, batch_size))
    assert course(n_train, batch_size, (1,)).n_steps == steps


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


def test_few_epochs_are_all_scored() -> None:
    assert scored_epochs(4, 4, 10, 2000, "1") == (1, 2, 3, 4)


def test_between_two_scorings_lie_the_epochs_that_belong_to_the_second() -> None:
    made = course(8, 4, (2, 3, 6))
    assert [list(made.epochs_before(scoring)) for scoring in range(3)] == [[0, 1], [2], [3, 4, 5]]


def test_courses_scored_equally_often_go_in_step() -> None:
    full, one, two = course(8, 4, (1, 2)), course(2, 2, (5, 10, 15), "1"), course(4, 2, (1, 2, 3), "2")
    assert in_step([full, one, two]) == [[full], [one, two]]
