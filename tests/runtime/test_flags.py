"""Functions as commands: reading, error messages and readable help, tested on a small program made here."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from tokenprobe.errors import InputError
from tokenprobe.runtime.flags import Call, Program, UsageError
from tokenprobe.runtime.help import GENERAL, ReadableGroup
from tokenprobe.runtime.options import DATA, MACHINE, Option
from tokenprobe.runtime.settings import Settings

CALLS: list[dict[str, Any]] = []


@dataclass(frozen=True, kw_only=True)
class Made(Settings):
    out: Annotated[str, Option("Where [to].", DATA, short="-o", metavar="FOLDER")]
    heads: Annotated[list[str], Option("Heads [:key=value].", DATA, also="head")] = field(
        default_factory=lambda: ["ep"]
    )
    layers: Annotated[str, Option("Layers.", DATA, joined=True)] = "all"
    kinds: Annotated[list[Literal["patch", "prefix"]], Option("Kinds.", MACHINE)] = field(default_factory=list)
    limit: Annotated[int | None, Option("Most.", MACHINE, least=1)] = None
    pairs: Annotated[dict[str, Any], Option("Pairs.", MACHINE)] = field(default_factory=dict)
    dry_run: Annotated[bool, Option("Whether.", MACHINE)] = False


def make_program() -> Program:
    program = Program(typer.Typer(cls=ReadableGroup))

    @program.command("Fit things.", "Stages", "\nprobe fit a -o b \\\n    --heads 'ep:[x]'\nprobe fit a b -o c\n")
    def _fit(stores: Annotated[list[str], typer.Argument(metavar="STORE", help="Stores.")], config: Made) -> None:
        CALLS.append({"stores": stores, "config": config})

    @program.command("Show things.", "Lists", "probe show")
    def _show(
        pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Names.")] = "*",
        page: Annotated[int, typer.Option("--page", metavar="N", help="Page.")] = 1,
        json: Annotated[bool, typer.Option("--json", help="As JSON.", rich_help_panel=GENERAL)] = False,
    ) -> None:
        CALLS.append({"pattern": pattern, "page": page, "json": json})
        speaker = logging.getLogger("tokenprobe.made")
        speaker.debug("a detail")
        speaker.info("a message")
        speaker.warning("a warning")

    return program


def arguments(*argv: str) -> dict[str, Any]:
    call = make_program().parse(argv)
    assert isinstance(call, Call)
    return call.arguments()


def config(*argv: str) -> Made:
    made: Made = arguments("fit", "a", "-o", "b", *argv)["config"]
    return made


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--heads", "ep,linear"], {"heads": ["ep", "linear"]}),
        (["--head", "ep", "--heads", "linear"], {"heads": ["ep", "linear"]}),
        (["--layers", "-1,0"], {"layers": "-1,0"}),
        (["--layers=-1"], {"layers": "-1"}),
        (["--layers", "3", "--layers", "7"], {"layers": "3,7"}),
        (["--pairs", "a=1,b=2", "--pairs", "b=3,c=x"], {"pairs": {"a": 1, "b": 3, "c": "x"}}),
        (["--dry-run"], {"dry_run": True}),
        (["--limit", "3", "--limit", "4"], {"limit": 4}),
    ],
)
def test_flags_become_settings(argv: list[str], expected: dict[str, Any]) -> None:
    assert config(*argv) == Made(**{"out": "b"} | expected)


def test_arguments_stand_anywhere() -> None:
    assert arguments("fit", "a", "-ob", "c")["stores"] == ["a", "c"]
    assert arguments("show") == {}
    assert arguments("show", "x*", "--page", "2") == {"pattern": "x*", "page": 2, "json": False}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], ["message", "warning"]),
        (["-q"], ["warning"]),
        (["--verbose"], ["detail", "message", "warning"]),
        (["-vq"], ["message", "warning"]),
    ],
)
def test_a_call_runs_its_function_and_sets_how_much_is_said(
    flags: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = make_program().parse(["show", *flags])
    assert isinstance(call, Call)
    call.run()
    assert CALLS[-1] == {"pattern": "*", "page": 1, "json": False}
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == said


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text("out: c\nlayers: [3, 7]\nhead: linear\n")
    argv = ["fit", "a", "--config", str(tmp_path / "made.yaml")]
    assert arguments(*argv)["config"] == Made(out="c", layers="3,7", heads=["linear"])
    assert arguments(*argv, "--layers", "5")["config"] == Made(out="c", layers="5", heads=["linear"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit"], "probe fit: STORE and --out are missing; see probe fit --help"),
        (["fit", "a"], "probe fit: --out is missing; see probe fit --help"),
        (["fit", "-o", "b"], "probe fit: missing argument 'STORE'; see probe fit --help"),
        (["fit", "a", "-o"], "probe fit: option '-o' requires an argument; see probe fit --help"),
        (["fit", "--hedas", "ep"],
         "probe fit: no such option: --hedas; did you mean --heads or --head or --help? See probe fit --help"),
        (["fit", "--dry"], "probe fit: no such option: --dry; did you mean --dry-run? See probe fit --help"),
        (["fit", "-x"], "probe fit: no such option: -x; see probe fit --help"),
        (["show", "a", "b"], "probe show: got unexpected extra argument(s) (b); see probe show --help"),
        (["shwo"], "probe: no such command 'shwo'; did you mean 'show'? See probe --help"),
        (["--fit"], "probe: no such option: --fit; see probe --help"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        arguments(*argv)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--limit", "many"], "--limit 'many': expected a whole number"),
        (["--limit", "0"], "--limit 0: expected at least 1"),
        (["--kinds", "patch,all"], "unknown --kinds 'all'; known: patch, prefix"),
        (["--pairs", "a"], "--pairs 'a': expected KEY=VALUE"),
        (["--heads", "--dry-run"], "--heads needs a value, and '--dry-run' is a flag"),
        (["--layers", "-o"], "--layers needs a value, and '-o' is a flag"),
    ],
)
def test_a_wrong_value_names_its_flag(argv: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        config(*argv)
    assert str(raised.value) == message


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *argv: str, columns: int = 80) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert make_program().parse(argv) == 0
    return capsys.readouterr().out


def test_help_shows_panels_defaults_and_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(capsys, monkeypatch, "fit", "--help")
    assert re.findall(r"─ (\w+) ─", text) == ["Arguments", "Data", "Machine", "General"]
    lines = [" ".join(line.strip("│ \n").split()) for line in text.splitlines()]
    for line in (
        "--out -o FOLDER Where [to]. [required]",
        "--heads,--head NAME,… Heads [:key=value]. [default: ep]",
        "--kinds NAME,… Kinds. One of patch, prefix.",
        "--dry-run Whether.",
        "--help -h Show this message and exit.",
    ):
        assert line.replace(" -h", "") in [each.replace(" -h", "") for each in lines], line
    assert any(line.startswith("* STORE ") and line.endswith("Stores. [required]") for line in lines)
    examples = "Examples:\n   probe fit a -o b \\\n       --heads 'ep:[x]'\n   probe fit a b -o c"
    assert examples in "\n".join(line.rstrip() for line in text.splitlines())


def test_the_general_panel_is_the_last(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(capsys, monkeypatch, "show", "--help")
    assert re.findall(r"─ (\w+) ─", text) == ["Arguments", "Options", "General"]
    assert re.findall(r"│ (--\w+)", text) == ["--page", "--json", "--verbose", "--quiet", "--help"]


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(capsys, monkeypatch) == shown(capsys, monkeypatch, "--help")


@pytest.mark.parametrize(
    ("argv", "incomplete", "expected"),
    [
        (["fit", "--kinds"], "p", ["patch", "prefix"]),
        (["fit", "--kinds"], "patch,", ["patch,prefix"]),
        (["fit"], "--hea", ["--heads", "--head"]),
        ([], "s", ["show"]),
        (["fit", "--heads"], "", []),
    ],
)
def test_names_and_choices_are_completed(
    argv: list[str],
    incomplete: str,
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("_PROBE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["probe", *argv, incomplete]))
    monkeypatch.setenv("COMP_CWORD", str(1 + len(argv)))
    with pytest.raises(SystemExit, match="0"):
        make_program().parse([])
    assert capsys.readouterr().out.split() == expected
