"""Orders that are promised never to change."""

import numpy as np
import pytest

from tokenprobe.store.order import permutation


@pytest.mark.parametrize(
    ("seed", "order"),
    [((0,), [3, 2, 1, 6, 0, 7, 4, 5]), ((0, 1), [1, 3, 6, 2, 0, 7, 5, 4])],
)
def test_the_order_of_a_seed_is_fixed_for_ever(seed: tuple[int, ...], order: list[int]) -> None:
    assert permutation(8, *seed).tolist() == order


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_every_index_occurs_once(n: int) -> None:
    order = permutation(n, 3, 1)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_every_integer_of_the_seed_matters() -> None:
    seeds = [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (1, 2), (1,)]
    orders = {tuple(permutation(100, *seed).tolist()) for seed in seeds}
    assert len(orders) == len(seeds)


def test_a_trailing_zero_in_the_seed_matters_too() -> None:
    """Numpy's SeedSequence pads with zeros, so that 5 and 5, 0 are the same to it."""
    assert permutation(100, 5).tolist() != permutation(100, 5, 0).tolist()


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        permutation(8, -1)
