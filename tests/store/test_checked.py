"""Values from files: each type accepts valid values, and the error names any other."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store.checked import Count, Range, Size, UnfitError, parse, read, read_file


@dataclass(frozen=True)
class Inner:
    """One level down."""

    size: Size
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    """A dataclass of every kind of field."""

    inner: dict[str, Inner]
    pair: tuple[int, float]
    free: Any
    place: str | Path
    maybe: Annotated[int, Range(-3, 3)] | None = None
    sure: bool = False


GOOD: dict[str, Any] = {
    "inner": {"a": {"size": 5, "names": ["x", "é"]}},
    "pair": [1, 2],
    "free": {"deep": [1, {"x": None}]},
    "place": "here",
}


def test_what_fits_becomes_the_dataclass() -> None:
    expected = Outer({"a": Inner(5, ["x", "é"])}, (1, 2), {"deep": [1, {"x": None}]}, "here")
    assert read(Outer, GOOD, "") == expected
    assert read(Outer, json.loads(json.dumps(GOOD)) | {"maybe": -3, "sure": True}, "").maybe == -3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": {"a": {"size": "5"}}}, "inner.a.size is '5'; expected a whole number"),
        ({"inner": {"a": {"size": 0}}}, "inner.a.size is 0; expected 1 to 1099511627776"),
        ({"inner": {"a": {"size": 2**41}}}, "inner.a.size is 2199023255552; expected 1 to"),
        ({"inner": {"a": {"size": True}}}, "inner.a.size is True; expected a whole number"),
        ({"inner": {"a": {"size": 1.0}}}, "inner.a.size is 1.0; expected a whole number"),
        ({"inner": {"a": {}}}, "inner.a.size is missing"),
        ({"inner": {"a": {"size": 1, "more": 2}}}, "inner.a.more is not known here"),
        ({"inner": {"a": {"size": 1, "names": "x"}}}, "inner.a.names is 'x'; expected a list"),
        ({"inner": {"a": {"size": 1, "names": ["x", 3]}}}, "inner.a.names[1] is 3; expected text"),
        ({"inner": {"a": {"size": 1, "names": ["\ud800"]}}}, "inner.a.names[0] is '\\ud800'; expected text that can"),
        ({"inner": {"a b": {"size": 0}}}, "inner.'a b'.size is 0; expected"),
        ({"inner": {"\udcff": {"size": 1}}}, "inner is '\\udcff'; expected text that can be written as UTF-8"),
        ({"inner": [1]}, "inner is a list of 1; expected keys and values"),
        ({"inner": {"a": None}}, "inner.a is None; expected keys and values"),
        ({"pair": [1]}, "pair is a list of 1; expected 2 values"),
        ({"pair": [1, "2"]}, "pair[1] is '2'; expected a number"),
        ({"pair": [2**64, 2]}, "pair[0] is 18446744073709551616; expected a whole number"),
        ({"pair": [1, 10**400]}, "pair[1] is 1000000000"),
        ({"pair": [1, float("nan")]}, "pair[1] is nan; expected a number"),
        ({"place": None}, "place is None; expected text"),
        ({"maybe": 4}, "maybe is 4; expected -3 to 3"),
        ({"sure": 1}, "sure is 1; expected true or false"),
        ({"free": {"x": [float("inf")]}}, "free.x[0] is inf; expected a number"),
        ({"free": {"x": {"\ud800": 1}}}, "free.x is '\\ud800'; expected text"),
        ({"free": "x" * 1000 + "\ud800"}, f"free is '{'x' * 60}'…; expected text"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitError) as raised:
        read(Outer, GOOD | changes, "")
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 200
    assert isinstance(raised.value, StoreError)


@pytest.mark.parametrize("value", [None, 5, "x", [1]])
def test_a_dataclass_is_made_of_keys_and_values(value: Any) -> None:
    with pytest.raises(UnfitError, match=r"^it is .*; expected keys and values$"):
        read(Outer, value, "")


def test_free_values_are_no_deeper_than_anything_can_walk() -> None:
    value: Any = 1
    for _ in range(40):
        value = [value]
    assert read(Any, value, "x") == value
    for outer in ([value], {"a": value}):
        with pytest.raises(UnfitError, match=r"^x.* is nested too deeply$"):
            read(Any, outer, "x")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not JSON: Expecting value"),
        (b"{", "not JSON: Expecting property name"),
        (b"\xff\xfe", "not JSON: 'utf-8' codec"),
        (b"NaN", "not JSON: NaN is not a JSON number"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is not a JSON number"),
        (b"1" * 5000, "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "lists and dicts are nested too deeply"),
        ('{"a":' * 100_000, "lists and dicts are nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused(text: bytes | str, fault: str) -> None:
    with pytest.raises(UnfitError, match=f"^{fault}"):
        parse(text)


def test_json_is_read() -> None:
    assert parse(b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}') == {"a": [1, 2.5, None, True, "é"]}
    assert read(Count, parse("0"), "n") == 0


def test_plain_files_are_read_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    (tmp_path / "link").symlink_to("plain")
    assert read_file(tmp_path / "plain") == read_file(tmp_path / "link") == b"x"
    (tmp_path / "nowhere").symlink_to("nothing")
    for absent in ("none", "nowhere"):
        with pytest.raises(FileNotFoundError):
            read_file(tmp_path / absent)
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a plain file"):
            read_file(odd)
