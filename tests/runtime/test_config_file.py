"""Config files: keys are field names, values are read like flags, and every wrong file gives a one-line error."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.runtime.config_file import read_config_file
from tokenprobe.runtime.options import DATA, Option
from tokenprobe.runtime.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Made(Settings):
    ignored_keys = ("about",)

    lr: Annotated[list[float], Option("Rates.", DATA)] = field(default_factory=list)
    heads: Annotated[list[str], Option("Heads.", DATA, also="head")] = field(default_factory=list)
    layers: Annotated[str, Option("Layers.", DATA, joined=True)] = "all"
    amp: Annotated[str, Option("Precision.", DATA)] = "auto"
    split: Annotated[str | None, Option("Split.", DATA)] = None
    model_arg: Annotated[dict[str, Any], Option("Arguments.", DATA)] = field(default_factory=dict)
    dry_run: Annotated[bool, Option("Whether.", DATA)] = False


def read(folder: Path, content: str | bytes) -> dict[str, Any]:
    path = folder / "made.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_config_file(Made, str(path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lr: 0.5", {"lr": [0.5]}),
        ("lr: [1e-1, 3]", {"lr": [0.1, 3.0]}),
        ("lr: 0.1,3", {"lr": [0.1, 3.0]}),
        ("layers: [3, 7]", {"layers": "3,7"}),
        ("layers: 010", {"layers": "010"}),
        ("head: ep", {"heads": ["ep"]}),
        ("heads: [ep, linear]", {"heads": ["ep", "linear"]}),
        ("amp: off", {"amp": "off"}),
        ("split: 2024-01-01", {"split": "2024-01-01"}),
        ("split: 1.10", {"split": "1.10"}),
        ("split: 'null'", {"split": "null"}),
        ("split: null", {"split": None}),
        ("split:", {"split": None}),
        ("dry_run: yes", {"dry_run": True}),
        ("dry-run: true", {"dry_run": True}),
        ("model_arg: {a: 1, b: true, c: [1, 2.5], d: text, e: null, f: None}",
         {"model_arg": {"a": 1, "b": True, "c": [1, 2.5], "d": "text", "e": None, "f": None}}),
        ("model_arg: a=1,b=two", {"model_arg": {"a": 1, "b": "two"}}),
        ("about: {anything: [1, {a: b}]}\nlr: 3", {"lr": [3.0]}),
        ("lr: !!str 3", {"lr": [3.0]}),
        ("\ufefflr: 3", {"lr": [3.0]}),
    ],
)  # fmt: skip
def test_a_value_means_what_a_flag_would(tmp_path: Path, content: str, expected: dict[str, Any]) -> None:
    assert read(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: fast", ": lr 'fast': expected a number"),
        ("dry-run: 3", ": dry-run '3': expected true or false"),
        ("lr:", ": lr None: expected a number"),
        ("epochz: 3", ": unknown key 'epochz'; known: "),
        ("ls: 3", ": unknown key 'ls'; known: lr, "),
        ("- a list", ": expected keys and values, found a list"),
        ("text", ": expected keys and values, found text"),
        ("", ": expected keys and values, found nothing"),
        ("# only a comment", ": expected keys and values, found nothing"),
        ("lr: 1\nlr: 2", ": line 2: 'lr' is given twice"),
        ("head: a\nheads: b", ": heads or head is given twice"),
        ("dry-run: true\ndry_run: true", ": dry_run is given twice"),
        ("? [1, 2]\n: 3", ": line 1: a key must be text"),
        ("? {a: b}\n: 3", ": line 1: a key must be text"),
        ("1: 2", ": unknown key '1'; known: "),
        ("null: 2", ": unknown key 'null'; known: "),
        ("a: &x [1]\nlr: *x", ": line 1 is repeated by an alias (*name); write its value out"),
        ("a: &x [*x]", ": line 1 is repeated by an alias"),
        ("lr: " + "[" * 5000, ": lists or keys are nested too deeply"),
        ("lr: [1", " is not YAML: "),
        ("lr: 1\n---\nlr: 2", " is not YAML: expected a single document"),
        ("a\tb: \x01", " is not YAML: "),
        (b"lr: \xff", " is not YAML: unacceptable character #x00ff: invalid start byte"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, content)
    assert str(raised.value).startswith(f"config file '{tmp_path}/made.yaml'{message}")
    assert "\n" not in str(raised.value)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)]
    with pytest.raises(InputError, match=r"line 1 is repeated by an alias \(\*name\)"):
        read(tmp_path, "\n".join(["a0: &a0 [x, x]", *levels]))


def test_tags_make_no_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lr '': expected a number"):
        read(tmp_path, "lr: !!python/object/apply:os.getcwd ''")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no config file at '.*/none\.yaml'$"):
        read_config_file(Made, str(tmp_path / "none.yaml"))
