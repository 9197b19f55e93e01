"""Measures of attention maps against their formulas written as loops, and parts of queries that are known."""

from math import log

import numpy as np
import pytest

from tokenprobe.probe.report.attention import (
    MOST_PARTS,
    as_distributions,
    complementarity,
    entropy,
    find_parts,
    merge,
)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], 0.5), size=shape[:-1])


def test_entropy_is_the_formula_and_has_its_two_ends() -> None:
    maps = drawn(3, 4, 6)
    for place in np.ndindex(3, 4):
        assert entropy(maps)[place] == pytest.approx(-sum(p * log(p) for p in maps[place]) / log(6))
    assert entropy(np.array([[0, 1.0, 0], [1 / 3] * 3])) == pytest.approx([0, 1])
    assert entropy(np.ones((2, 1))).tolist() == [0, 0], "one place: nothing to choose"


def test_complementarity_is_one_minus_the_mean_overlap_with_the_others() -> None:
    maps = drawn(2, 4, 6)
    for b, m in np.ndindex(2, 4):
        overlaps = [sum(map(min, maps[b, m], maps[b, k])) for k in range(4) if k != m]
        assert complementarity(maps)[b, m] == pytest.approx(1 - sum(overlaps) / 3)
    apart, equal = np.eye(3)[None], np.full((1, 3, 5), 0.2)
    assert complementarity(apart).tolist() == [[1, 1, 1]]
    assert complementarity(equal) == pytest.approx(np.zeros((1, 3)))
    assert np.isnan(complementarity(drawn(2, 1, 6))).all()


def test_queries_that_look_alike_are_one_part_on_all_images() -> None:
    """Five queries look at three places that change from image to image."""
    n_images, group = 10, [0, 1, 0, 2, 1]
    places = np.stack([np.random.default_rng(b).permutation(9)[:3] for b in range(n_images)])
    maps = np.full((n_images, 5, 9), 0.02)
    for b, m in np.ndindex(n_images, 5):
        maps[b, m, places[b, group[m]]] += 0.6 + 0.05 * m
    maps = as_distributions(maps)
    parts = find_parts(maps).tolist()
    assert parts[0] == 0 and len(set(parts)) == MOST_PARTS, "five queries, four parts"
    assert {parts[m] for m in (0, 2)}.isdisjoint({parts[m] for m in (1, 3, 4)})
    three = maps[:, [0, 2, 1, 4, 3, 0, 1, 3]]
    grouped = [0, 0, 1, 1, 2, 0, 1, 2]
    found = find_parts(three).tolist()
    for a, b in np.ndindex(8, 8):
        assert grouped[a] == grouped[b] or found[a] != found[b], "no part holds queries of two places"


def test_parts_are_numbered_by_their_first_query_and_repeat() -> None:
    maps = drawn(6, 12, 16)
    parts = find_parts(maps)
    assert list(dict.fromkeys(parts.tolist())) == [0, 1, 2, 3]
    assert (find_parts(maps) == parts).all()
    assert find_parts(np.repeat(maps[:, :1], 3, axis=1)).tolist() == [0, 0, 0], "equal queries"
    assert find_parts(maps[:, :1]).tolist() == [0]


def test_a_part_has_the_mean_map_of_its_queries() -> None:
    maps = drawn(2, 3, 4)
    merged = merge(maps, np.array([0, 1, 0]))
    assert merged == pytest.approx(np.stack([(maps[:, 0] + maps[:, 2]) / 2, maps[:, 1]], axis=1))
    assert merged.sum(-1) == pytest.approx(np.ones((2, 2)))


def test_weights_without_any_become_uniform() -> None:
    assert as_distributions(np.array([[0.0, 0], [1, 3]])).tolist() == [[0.5, 0.5], [0.25, 0.75]]
