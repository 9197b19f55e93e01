"""The list of heads: every one, in eighty columns, with the facts that the tests of heads know otherwise."""

import json
import subprocess
import sys

import pytest

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.probe.grid.specs import HEADS, parse_heads
from tokenprobe.probe.heads import POOLINGS
from tokenprobe.probe.report.head_list import describe_head, head_facts, list_heads
from tokenprobe.probe.solvers import SOLVERS

from ..heads.facts import FACTS

EVERY = [*POOLINGS, *SOLVERS]


def row_of(name: str) -> str:
    (row,) = [line for line in list_heads() if line.startswith(f"  {name} ")]
    return row


@pytest.mark.parametrize("name", POOLINGS)
def test_parameters_are_those_that_are_published(name: str) -> None:
    """Counts of the reference implementation, for tokens 768 wide and 1,000 classes."""
    published = next((count for settings, count in FACTS[name].counts if not settings), 768 * 1000 + 1000)
    assert head_facts(name)["n_params"] == published
    assert row_of(name).split()[1] == f"{published:,}"


@pytest.mark.parametrize("name", EVERY)
def test_settings_come_with_type_default_and_meaning(name: str) -> None:
    settings = head_facts(name)["settings"]
    assert {each["name"]: each["default"] for each in settings} == dict(HEADS[name].defaults)
    for each in settings:
        assert each["type"] == type(each["default"]).__name__
        assert each["meaning"].endswith(".") and len(each["meaning"]) > 10


@pytest.mark.parametrize("name", EVERY)
def test_a_head_is_described(name: str) -> None:
    lines, facts = describe_head(name), head_facts(name)
    assert max(map(len, [*lines, row_of(name)])) <= 80
    text = " ".join(" ".join(lines).split())
    for part in (facts["summary"], facts["source"], *(each["meaning"] for each in facts["settings"])):
        assert part in text
    spec = lines[-1].rpartition(" ")[2]
    (head,) = parse_heads([spec])
    assert dict(head.settings) == dict(HEADS[name].defaults), "the example is a spec that can be typed"


def test_solvers_have_the_parameters_of_the_linear_head_that_they_are_saved_as() -> None:
    assert head_facts("ridge")["n_params"] == head_facts("logreg")["n_params"] == head_facts("linear")["n_params"]
    assert head_facts("knn")["n_params"] is None and row_of("knn").split()[1] == "none"


def test_the_list_fits_eighty_columns_and_has_every_head_once() -> None:
    lines = list_heads()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("  head")]
    assert names == EVERY
    assert row_of("ep").endswith("  queries=32 d_out=1 tokens=patch") and row_of("abmilp").endswith(" …")
    assert row_of("cbam").endswith("  none")


def test_an_unknown_head_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown head 'linaer'; known: linear, "):
        describe_head("linaer")


def test_the_command_prints_all_or_one_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads"]) == 0
    assert capsys.readouterr().out.splitlines() == list_heads()
    assert main(["heads", "knn"]) == 0
    assert capsys.readouterr().out.splitlines() == describe_head("knn")
    assert main(["heads", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [head_facts(name) for name in EVERY]
    assert main(["heads", "ep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == head_facts("ep")
    assert main(["heads", "epp"]) == 2
    assert capsys.readouterr().err.startswith("probe heads show: unknown head 'epp'; known: ep, ")


def test_python_without_docstrings_describes_heads_too() -> None:
    code = "from tokenprobe.probe.report.head_list import describe_head as d; print('\\n'.join(d('ep')))"
    bare = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True)
    assert bare.stdout.splitlines() == describe_head("ep")
