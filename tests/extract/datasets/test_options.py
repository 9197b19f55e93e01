"""Options of a data spec."""

from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets.options import absolute, join_options, split_options


@pytest.mark.parametrize(
    ("argument", "name", "options"),
    [
        ("a/b.csv", "a/b.csv", {}),
        ("a.csv?root=/c d", "a.csv", {"root": "/c d"}),
        ("?split=x=y&root=..", "", {"split": "x=y", "root": ".."}),
    ],
)
def test_an_argument_is_cut_and_joined_again(argument: str, name: str, options: dict[str, str]) -> None:
    assert split_options("csv", argument, ["root", "split"]) == (name, options)
    assert join_options(name, options) == argument


@pytest.mark.parametrize("part", ["root", "root=", "=x"])
def test_a_part_that_is_no_pair_is_named(part: str) -> None:
    message = (
        rf"^(csv:a\?{part}: expected KEY=VALUE after '\?', found '{part}'|unknown option of csv: ''; known: root)$"
    )
    with pytest.raises(InputError, match=message):
        split_options("csv", f"a?{part}", ["root"])


def test_an_unknown_option_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^unknown option of hf: 'imge'; known: image, label$"):
        split_options("hf", "a/b?imge=x", ["label", "image"])


def test_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert [absolute(path) for path in ("a/../b", "~/c", "/d")] == [f"{tmp_path}/b", "/home/me/c", "/d"]


def test_an_option_that_is_given_twice_is_named() -> None:
    with pytest.raises(
        InputError, match=r"^hf:a\?label=x&label=y: option label is given twice; leave out one of them$"
    ):
        split_options("hf", "a?label=x&label=y", ["label"])
