"""One reader for flags, YAML and Python: single values, lists and text. Errors name the wrong value."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.runtime.options import DATA, Option, fields_of
from tokenprobe.runtime.values import read_pairs, read_value


def option(**about: Any) -> Option:
    return Option("Text.", DATA, **about)


@dataclass
class Made:
    switch: Annotated[bool, option()] = False
    count: Annotated[int, option(least=1, most=100)] = 1
    maybe: Annotated[int | None, option()] = None
    rate: Annotated[float, option()] = 1.0
    rates: Annotated[list[float], option()] = field(default_factory=list)
    name: Annotated[str, option()] = "a"
    names: Annotated[list[str], option()] = field(default_factory=list)
    path: Annotated[str | Path, option()] = "a"
    layers: Annotated[str, option(joined=True)] = "all"
    kind: Annotated[Literal["lars", "sgd"], option()] = "lars"
    kinds: Annotated[list[Literal["patch", "prefix"]], option()] = field(default_factory=list)
    specs: Annotated[list[str], option(cut=lambda text: text.split(";"))] = field(default_factory=list)
    pairs: Annotated[dict[str, Any], option()] = field(default_factory=dict)


def read(name: str, value: Any) -> Any:
    return read_value(fields_of(Made)[name], value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("switch", True, True),
        ("switch", "off", False),
        ("switch", "Yes", True),
        ("count", "7", 7),
        ("count", np.int64(7), 7),
        ("maybe", None, None),
        ("maybe", " 3 ", 3),
        ("rate", 3, 3.0),
        ("rate", "1e-1", 0.1),
        ("rates", 3.0, [3.0]),
        ("rates", "0.1, 1,1e1", [0.1, 1.0, 10.0]),
        ("rates", ["0.1,1", 3], [0.1, 1.0, 3.0]),
        ("rates", (1, 2), [1.0, 2.0]),
        ("rates", np.array([0.5, 2.0]), [0.5, 2.0]),
        ("rates", torch.tensor([0.5, 2.0]), [0.5, 2.0]),
        ("rates", [], []),
        ("name", 12, "12"),
        ("name", Path("a/b"), "a/b"),
        ("names", "train", ["train"]),
        ("names", "train, test", ["train", "test"]),
        ("names", [4], ["4"]),
        ("names", [4, "full"], ["4", "full"]),
        ("path", Path("a"), Path("a")),
        ("path", "a", "a"),
        ("layers", 7, "7"),
        ("layers", [3, 7], "3,7"),
        ("layers", ["8+9", -1], "8+9,-1"),
        ("layers", range(3), "0,1,2"),
        ("layers", "-1,0", "-1,0"),
        ("kind", "sgd", "sgd"),
        ("kinds", "prefix,patch", ["prefix", "patch"]),
        ("specs", "a=1,b;c", ["a=1,b", "c"]),
        ("pairs", {"a": "1"}, {"a": "1"}),
        ("pairs", "a=1,b=two", {"a": 1, "b": "two"}),
        ("pairs", ["a=1,b=2", "b=(3, 4),c=None"], {"a": 1, "b": (3, 4), "c": None}),
    ],
)
def test_a_value_is_read_as_the_field_holds_it(name: str, value: Any, expected: Any) -> None:
    found = read(name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("switch", 1, "switch 1: expected true or false"),
        ("switch", "maybe", "switch 'maybe': expected true or false"),
        ("count", "many", "count 'many': expected a whole number"),
        ("count", 2.0, "count 2.0: expected a whole number"),
        ("count", "2.0", "count '2.0': expected a whole number"),
        ("count", True, "count True: expected a whole number"),
        ("count", None, "count None: expected a whole number"),
        ("count", [1], "count [1]: expected a whole number"),
        ("count", "0", "count 0: expected at least 1"),
        ("count", 101, "count 101: expected at most 100"),
        ("rate", "fast", "rate 'fast': expected a number"),
        ("rate", "nan", "rate 'nan': expected a finite number"),
        ("rate", 10**400, f"rate {10**400}: expected a number"),
        ("rate", Fraction(1, 2), "rate Fraction(1, 2): expected a number"),
        ("rates", [0.1, [1]], "rates [1]: expected a number"),
        ("rates", {"a": 1}, "rates {'a': 1}: expected a number"),
        ("rates", "1,,2", "rates '': expected a number"),
        ("rates", None, "rates None: expected a number"),
        ("name", "", "name '': expected text"),
        ("name", "a\0b", r"name 'a\x00b': expected text"),
        ("name", False, "name False: expected text"),
        ("name", ["a"], "name ['a']: expected text"),
        ("names", "a,", "names '': expected text"),
        ("names", ["a", None], "names None: expected text"),
        ("layers", [], "layers []: expected text"),
        ("layers", [[1, 2]], "layers [1, 2]: expected text"),
        ("kind", "adam", "unknown kind 'adam'; known: lars, sgd"),
        ("kind", 3, "unknown kind '3'; known: lars, sgd"),
        ("kinds", ["patch", "patches"], "unknown kinds 'patches'; known: patch, prefix"),
        ("pairs", "img_size", "pairs 'img_size': expected KEY=VALUE"),
        ("pairs", "=3", "pairs '=3': expected KEY=VALUE"),
        ("pairs", 3, "pairs 3: expected KEY=VALUE"),
        ("pairs", {3: 1}, "pairs {3: 1}: expected KEY=VALUE"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_expected(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read(name, value)
    assert str(raised.value) == message


def test_an_error_names_a_field_as_the_user_wrote_it() -> None:
    with pytest.raises(InputError, match=r"^--count 'x': expected a whole number$"):
        read_value(fields_of(Made)["count"], "x", "--count")


@pytest.mark.parametrize("text", ["[" * 10_000, "1 +", "two", "os.getcwd()", "'open"])
def test_a_value_of_a_pair_that_is_no_literal_stays_text(text: str) -> None:
    assert read_pairs(f"a={text}") == {"a": text}


def test_pairs_hold_plain_values_of_numpy_and_torch(tmp_path: Path) -> None:
    given = {
        "ratio": np.float32(0.5),
        "size": (np.int64(3), [torch.tensor(4)]),
        "more": {"flags": np.array([True, False])},
        "path": tmp_path,
        "layer": torch.nn.ReLU,
    }
    assert read("pairs", given) == {
        "ratio": 0.5,
        "size": (3, [4]),
        "more": {"flags": [True, False]},
        "path": str(tmp_path),
        "layer": torch.nn.ReLU,
    }
    assert [type(part) for part in read("pairs", given)["size"]] == [int, list]
