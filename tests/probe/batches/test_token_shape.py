"""The shape of tokens as heads read them."""

from typing import Any

import pytest

from tokenprobe.probe.batches.token_shape import TokenShape, stored_kind


@pytest.mark.parametrize(
    ("kind", "one", "three"),
    [
        ("patch", (6, 8), (18, 8)),
        ("prefix", (5, 8), (15, 8)),
        ("cls", (1, 8), (3, 8)),
        ("mean", (8,), (3, 8)),
        ("embedding", (4,), (4,)),
    ],
)
def test_stacked_layers_have_more_tokens(kind: str, one: tuple[int, ...], three: tuple[int, ...]) -> None:
    shape: dict[str, Any] = {"grid": (2, 3), "dim": 8, "n_prefix": 5, "embedding": 4}
    assert TokenShape(**shape).row_shape(kind) == one
    assert TokenShape(**shape, n_layers=3).row_shape(kind) == three
    assert TokenShape(**shape, n_layers=3).of_pooling == {"dim": 8, "grid": (2, 3), "n_layers": 3}


def test_class_tokens_come_from_the_prefix() -> None:
    assert [stored_kind(kind) for kind in ("cls", "prefix", "patch")] == ["prefix", "prefix", "patch"]
