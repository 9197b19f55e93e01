"""The suffix of a tensor's name is its shape: `x_BND` has three axes, and B is the same number in all of a function."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.heads import POOLINGS, Head, build_pooling

SUFFIX = re.compile(r"_([A-Z1-9]{2,})$")
SHARED = {"B", "H"}
"""Axes that may have the size 1 instead: it stands for all images, or all cells."""


def contradictions(values: dict[str, Any]) -> list[str]:
    """Return the names that have another number of axes, or an axis of another size than the same letter elsewhere."""
    sizes, found = dict[str, int](), list[str]()
    for name, value in values.items():
        suffix = SUFFIX.search(name)
        if not isinstance(value, Tensor) or suffix is None:
            continue
        letters = suffix[1]
        if value.ndim != len(letters):
            found.append(f"{name} is {tuple(value.shape)}")
            continue
        for letter, size in zip(letters, value.shape, strict=True):
            if letter in SHARED and size == 1:
                continue
            if sizes.setdefault(letter, int(letter) if letter.isdigit() else size) != size:
                found.append(f"{letter} of {name} is {size}, not {sizes[letter]}")
    return found


@contextmanager
def watched() -> Iterator[tuple[list[str], set[str]]]:
    """Give the contradictions in functions of `probe/heads` that return meanwhile, and the names looked at."""
    found: list[str] = []
    seen: set[str] = set()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_globals.get("__name__", "").startswith("tokenprobe.probe.heads"):
            values = frame.f_locals
            seen.update(name for name in values if SUFFIX.search(name))
            found.extend(f"{frame.f_code.co_qualname}: {said}" for said in contradictions(values))

    sys.setprofile(look)
    try:
        yield found, seen
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", POOLINGS)
def test_names_tell_the_shapes(name: str) -> None:
    """In training and in evaluation, of seven images, 15 tokens 192 wide and two cells, so that few sizes are equal."""
    pooling = build_pooling(name, dim=192, grid=(3, 5), cells=2)
    head = Head(pooling, 11)
    tokens = torch.randn(7, 1 if pooling.inputs[0] in ("mean", "cls") else 15, 192)
    with watched() as (found, seen):
        head.train()(tokens).sum().backward()
        head.eval()(tokens)
    assert found == []
    assert "x_BND" in seen
