"""The `probe` command: it reads a command line and calls one stage or workflow. Only then torch and timm load."""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from . import __version__
from .errors import InputError, StoreError, TokenprobeError
from .extract.config import EXAMPLES as EXTRACT_EXAMPLES
from .extract.config import ExtractConfig
from .probe.config import EXAMPLES as FIT_EXAMPLES
from .probe.config import FitConfig
from .runtime.flags import PROGRAM, Program, UsageError
from .runtime.help import GENERAL, ReadableGroup
from .runtime.text import json_text, printable
from .runtime.threads import spin_briefly
from .workflows.config import EXPORT_EXAMPLES, PREDICT_EXAMPLES, ExportConfig, PredictConfig

if TYPE_CHECKING:
    from .probe.run.results import Run

STAGES, STORES, LISTS, WIDE = "Stages", "Stores and runs", "Lists", 160
KEEP_WHAT_IS_FINISHED = ("extract", "fit", "verify", "demo")
EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 2, 130, 141, 143

app = typer.Typer(
    cls=ReadableGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="probe COMMAND --help shows the options of a command, with examples.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
program = Program(app)

Store = Annotated[str, typer.Argument(metavar="STORE", help="Made by probe extract.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=GENERAL)]


class _Terminated(BaseException):
    """SIGTERM arrived."""

    arrived = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit status."""
    name = PROGRAM
    _Terminated.arrived = False
    signal.signal(signal.SIGTERM, _terminate)
    spin_briefly()
    try:
        call = program.parse(sys.argv[1:] if argv is None else argv)
        if isinstance(call, int):
            return call
        name = call.path
        call.run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output closed the pipe, like head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python prints an error at exit
        return EXIT_BROKEN_PIPE
    except UsageError as error:
        print(printable(str(error)), file=sys.stderr)
        return EXIT_INPUT
    except (TokenprobeError, OSError) as error:
        print(printable(f"{name}: {error}"), file=sys.stderr)
        _drop_unwritten()
        return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted{_what_is_safe(name)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (_Terminated, RuntimeError):
        if not _Terminated.arrived:  # after SIGTERM, torch may first report that a worker was terminated
            raise
        print(f"{name}: terminated{_what_is_safe(name)}", file=sys.stderr)
        return EXIT_TERMINATED
    return 0


def _drop_unwritten() -> None:
    """Drop output that the disk does not take. Otherwise Python fails again at its end, with another status."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _what_is_safe(name: str) -> str:
    return "; finished work is safe" if name.removeprefix(f"{PROGRAM} ") in KEEP_WHAT_IS_FINISHED else ""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _Terminated.arrived = True
    raise _Terminated


def _show_version(asked: bool) -> None:
    if asked:
        print(f"tokenprobe {__version__}")
        raise typer.Exit


@app.callback(help="Judge frozen vision backbones by probing stored tokens.")
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@program.command("Store the tokens of every layer, for a data set.", STAGES, EXTRACT_EXAMPLES)
def _extract(config: ExtractConfig, json: Json = False) -> None:
    from .extract import describe_extraction, extract
    from .store import open_store
    from .store.facts import facts

    if config.dry_run:
        _check_text(json)
        _print_lines(describe_extraction(config))
        return
    out = extract(config)
    if json:
        print(json_text(facts(open_store(out))))


@program.command("Train heads from stores.", STAGES, FIT_EXAMPLES)
def _fit(
    stores: Annotated[
        list[str], typer.Argument(metavar="STORE", help="Made by probe extract. Several are compared in one run.")
    ],
    config: FitConfig,
    json: Json = False,
) -> None:
    from .probe import describe_fit, fit

    if config.dry_run:
        _check_text(json)
        _print_lines(describe_fit(stores, config))
    else:
        _print_run(fit(stores, config), json=json)


@program.command("Run both stages on bundled images and weights.", STAGES, "probe demo -o my-first-probe")
def _demo(
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the store and the run.")
    ] = "tokenprobe-demo",
    json: Json = False,
) -> None:
    from .workflows.demo import run_demo

    _print_run(run_demo(out), json=json)


@program.command("Show the contents of a store, and whether it is complete.", STORES, "probe info mae.zarr --audit")
def _info(
    store: Store,
    audit: Annotated[bool, typer.Option("--audit", help="Measure the loss of accuracy in smaller dtypes.")] = False,
    json: Json = False,
) -> None:
    from rich.console import Console

    from .runtime.console import status
    from .store import open_store
    from .store.audit import audit as measure
    from .store.describe import audit_table, describe
    from .store.facts import facts

    opened, measured = open_store(store), None
    if audit:
        with status("measuring the errors of other dtypes on every layer"):
            measured = measure(opened)
    if json:
        print(json_text(facts(opened) | ({"audit": asdict(measured)} if measured else {})))
        return
    _print_lines(describe(opened))
    if measured:
        Console().print(audit_table(measured))


@program.command(
    "Read a whole store, and name files that are damaged, missing or foreign.", STORES, "probe verify mae.zarr --repair"
)
def _verify(
    store: Store,
    repair: Annotated[bool, typer.Option("--repair", help="Extract damaged and missing files again.")] = False,
    trust_code: Annotated[
        bool,
        typer.Option("--trust-code", help="Let --repair run code of a backbone that the store names."),
    ] = False,
    json: Json = False,
) -> None:
    from .workflows import repair as workflow

    problems = workflow.repair(store, trust_code=trust_code) if repair else workflow.check(store)
    if json:
        print(json_text({"store": store, "problems": [asdict(problem) for problem in problems]}))
    elif problems:
        _print_lines(problem.line for problem in problems)
    else:
        _print_lines([f"{store}: every file is intact"])
    if problems:
        raise StoreError(workflow.summary(store, problems))


@program.command("Write tokens as plain files, or compress a store.", STORES, EXPORT_EXAMPLES)
def _export(store: Store, config: ExportConfig) -> None:
    from .workflows.export import export

    export(store, config)


@program.command("Run a trained head on new images.", STORES, PREDICT_EXAMPLES)
def _predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")],
    config: PredictConfig,
    json: Json = False,
) -> None:
    from .workflows.predict import predict
    from .workflows.predictions import as_lines

    table = predict(run, config)
    if json:
        print(json_text(table.to_dict("records")))
    elif config.out is None:
        print(as_lines(table), end="")


@program.command(
    "List the backbones that can be loaded, with their layers.",
    LISTS,
    "probe models 'vit_base*'\nprobe models 'open_clip:ViT-B-16*' --page 2\nprobe models 'dinov2*'",
)
def _models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Name, with * and ?.")] = "*",
    page: Annotated[int, typer.Option("--page", metavar="N", help="Page of the list.")] = 1,
    json: Json = False,
) -> None:
    from rich.console import Console

    from .extract.backbones.catalogue import facts_of, page_of, table_of
    from .runtime.console import status

    listed = page_of(pattern, page)
    with status("reading the shapes of each backbone"):
        result = json_text(facts_of(listed)) if json else table_of(listed)
    if isinstance(result, str):
        print(result)
    else:
        Console(width=None if sys.stdout.isatty() else WIDE).print(result)  # wide enough not to break names, for grep


@program.command("List the kinds of data that can be read, and their names.", LISTS, "probe datasets")
def _datasets(json: Json = False) -> None:
    from .extract.datasets import describe_datasets, list_datasets

    if json:
        print(json_text(list_datasets()))
    else:
        _print_lines(describe_datasets())


@program.command("List the heads, with their settings and size, or describe one.", LISTS, "probe heads ep")
def _heads(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a head.")] = None, json: Json = False
) -> None:
    from .probe.grid.specs import HEADS
    from .probe.report.head_list import describe_head, head_facts, list_heads

    if json:
        print(json_text(head_facts(name) if name else [head_facts(each) for each in HEADS]))
    else:
        _print_lines(describe_head(name) if name else list_heads())


def _check_text(json: bool) -> None:
    if json:
        raise InputError("a dry run is text for people, and --json was given too; leave one of them out")


def _print_run(run: "Run", *, json: bool) -> None:
    from .probe.report import print_run, run_facts

    if json:
        print(json_text(run_facts(run)))
    else:
        print_run(run)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))
