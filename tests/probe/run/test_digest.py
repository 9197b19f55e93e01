"""Digests of values: different for what is different, and the same wherever it is kept."""

import math
from itertools import combinations

import torch

from tokenprobe.probe.run.digest import value_digest

DIFFERENT = [
    torch.arange(6.0),
    torch.arange(6.0).reshape(2, 3),
    torch.arange(6.0).double(),
    torch.tensor([0.0, 1, 2, 3, 4, 5.0000005]),
    torch.tensor(5),
    torch.empty(0),
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    {"a": 1, "b": "2"},
    [1, 2],
    [1, [2]],
    [[1], 2],
    ["a", "b"],
    ["ab"],
    "ab",
    None,
    math.nan,
    True,
    1,
    1.0,
]


def test_what_differs_has_another_digest() -> None:
    digests = [value_digest(value) for value in DIFFERENT]
    assert all(one != other for one, other in combinations(digests, 2))


def test_what_is_equal_has_the_same_digest() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert value_digest(matrix.T.contiguous().T) == value_digest(matrix)
    assert value_digest({"b": matrix[:, :2], "a": (1, 2)}) == value_digest({"a": [1, 2], "b": matrix[:, :2].clone()})
    assert value_digest(torch.ones(3, requires_grad=True)) == value_digest(torch.ones(3))
