"""The annotation of a field, and the help and flags made from it."""

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from tokenprobe.runtime.options import DATA, Field, Option, fields_of


@dataclass
class Made:
    out: Annotated[str | Path, Option("Where to.", DATA, short="-o", metavar="FOLDER")]
    batch_size: Annotated[int | None, Option("Images.", DATA, default="as many as fit")] = None
    seed: Annotated[int, Option("Seed.", DATA)] = 0
    rates: Annotated[list[float], Option("Rates.", DATA, also="rate")] = field(default_factory=lambda: [0.1, 30.0])
    kinds: Annotated[list[Literal["a", "b"]], Option("Kinds.", DATA)] = field(default_factory=list)
    layers: Annotated[str, Option("Layers.", DATA, joined=True)] = "all"
    pairs: Annotated[dict[str, Any], Option("Pairs.", DATA)] = field(default_factory=dict)
    fast: Annotated[bool, Option("Whether.", DATA)] = False


def made(name: str) -> Field:
    return fields_of(Made)[name]


def test_fields_come_in_order_with_their_own_names() -> None:
    assert list(fields_of(Made)) == [
        "out", "batch_size", "seed", "rates", "kinds", "layers", "pairs", "fast",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # type, a list, a path, optional, several
        ("out", (str, False, True, False, False)),
        ("batch_size", (int, False, False, True, False)),
        ("rates", (float, True, False, False, True)),
        ("kinds", (str, True, False, False, True)),
        ("layers", (str, False, False, False, True)),
        ("pairs", (dict, False, False, False, True)),
        ("fast", (bool, False, False, False, False)),
    ],
)
def test_a_type_hint_is_read(name: str, expected: tuple[Any, ...]) -> None:
    field = made(name)
    assert (field.type, field.is_list, field.is_path, field.is_optional, field.several) == expected
    assert field.choices == (("a", "b") if name == "kinds" else ())


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("out", None),
        ("batch_size", "as many as fit"),
        ("seed", "0"),
        ("rates", "0.1,30"),
        ("kinds", None),
        ("layers", "all"),
        ("pairs", None),
        ("fast", None),
    ],
)
def test_a_default_is_put_in_words(name: str, default: str | None) -> None:
    assert made(name).default == default


def test_only_a_field_without_a_default_is_required() -> None:
    assert [name for name, field in fields_of(Made).items() if field.required] == ["out"]
    assert made("out").value is MISSING and made("rates").value == [0.1, 30.0]


@pytest.mark.parametrize(
    ("name", "flags", "metavar"),
    [
        ("out", ["-o", "--out"], "FOLDER"),
        ("batch_size", ["--batch-size"], "N"),
        ("rates", ["--rates", "--rate"], "NUMBER,…"),
        ("pairs", ["--pairs"], "KEY=VALUE,…"),
        ("fast", ["--fast"], ""),
    ],
)
def test_flags_and_their_placeholders(name: str, flags: list[str], metavar: str) -> None:
    assert (made(name).flags, made(name).metavar) == (flags, metavar)


def test_choices_are_part_of_the_help() -> None:
    assert made("kinds").text == "Kinds. One of a, b."
    assert made("seed").text == "Seed."
