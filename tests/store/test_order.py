"""Orders that are promised never to change."""

import numpy as np
import pytest

from tokenprobe.store.order import permutation


@pytest.mark.parametrize(
    ("seed", "order"),
    [((0,), [3, 2, 1, 6, 0, 7, 4, 5]), ((0, 1), [7, 4, 5, 1, 6, 2, 0, 3])],
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


@pytest.mark.parametrize(("one", "other"), [((5,), (5, 0)), ((5,), (5, 0, 0)), ((2**32 + 5,), (5, 1))])
def test_seeds_that_fill_the_same_words_still_differ(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Numpy's SeedSequence pads with zeros and joins 32-bit words: 5 is 5, 0 to it."""
    assert permutation(100, *one).tolist() != permutation(100, *other).tolist()


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        permutation(8, -1)
