"""Lists of rows: a wrong one is refused by the name of what is wrong, and the published one names known models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import split_source
from tokenprobe.extract.backbones.from_hub import PUBLISHED, split_entry
from tokenprobe.extract.backbones.from_open_clip import split_tag

from .kit import MADE, Script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "row 1 has no name"),
        ({"name": "A b"}, "row 'A b': files have this name, so give lower-case letters, digits and . _ - alone"),
        ({"name": "second"}, "two rows are named 'second'; files have the names of rows, so give each its own"),
        ({"titel": "x"}, "unknown key in row 1 'titel'; known: title, "),
        ({"figures": {"EP": 3}}, "row 1, figures: expected a list, found {'EP': '3'}"),
        ({"figures": [75.5]}, "a figure of row 'first': expected keys and values, found '75.5'"),
        ({"figures": [{"head": "ep", "paper": 3}]}, "a figure of row 'first' has no probe"),
        ({"figures": [{"probe": "EP", "head": "ep"}]},
         "row 'first', EP has no published figure; give one from a source: paper, report"),
        ({"figures": [{"probe": "EP", "head": "ep", "blog": 3}]}, "unknown key in a figure of row 'first' 'blog'; "),
        ({"figures": [{"probe": "EP", "paper": 3}]},
         "row 'first', EP has no head; name one, or give a reason why no head reproduces it"),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": 0.755}]},
         "row 'first', EP, paper: expected a number from 1 to 100, found '0.755'"),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": "high"}]},
         "row 'first', EP, paper: expected a number from 1 to 100, found 'high'"),
        ({"figures": [{"probe": "EP", "head": "ep:queries=8|32", "paper": 3}]},
         "row 'first', EP: 'ep:queries=8|32' names 2 heads; give each a figure of its own"),
        ({"figures": [{"probe": "EP", "head": "epp", "paper": 3}]}, "unknown head 'epp'; known: ep, "),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": 3, "log": {"epochs": 3}}]},
         "log of row 'first', EP has no best_epoch"),
        ({"extract": {"modle": "timm:x"}}, "row 'first', extract: unknown key 'modle'; known: model, "),
        ({"extract": {"out": "x"}}, "row 'first', extract: leave out out; the script decides it"),
        ({"fit": {"heads": "ep"}}, "row 'first', fit: leave heads out; the script decides it"),
        ({"fit": {"epochs": "many"}}, "row 'first', fit: epochs 'many': expected a whole number"),
        ({"figures": [{"probe": "EP", "reason": "none.", "paper": 3}]},
         "row 'first' has no head; name one, or give the row a reason why it cannot be run"),
        ({"extract": {}}, "row 'first' has no model; name one, or give the row a reason why it cannot be run"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_wrong_list_is_refused(
    script: Script, made: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = made(**changes)
    with pytest.raises(InputError) as raised:
        script.reads.read_board(str(path))
    assert str(raised.value).startswith(f"{path}: {message}")


def test_a_source_has_no_name_of_a_key(script: Script, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(MADE | {"sources": {"log": "a log"}}))
    with pytest.raises(InputError, match="a source cannot be named 'log', which is a key of a figure; give it another"):
        script.reads.read_board(str(tmp_path / "a.yaml"))


def test_models_of_the_list_are_known(board: Any) -> None:
    for row in board.rows:
        if row.reason:
            continue
        source, name = split_source(row.extract["model"])
        if source == "timm":
            assert timm.is_model(name.partition(".")[0])
            assert name in timm.list_pretrained() or "checkpoint" in row.extract
        elif source == "open_clip":
            architecture, tag = split_tag(name)
            assert tag in open_clip.list_pretrained_tags_by_model(architecture)
        else:
            repository, entry = split_entry(name)
            assert entry in PUBLISHED.get(repository, ["radio_model"])
