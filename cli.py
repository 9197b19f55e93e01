"""The `probe` command: a command line in, one stage or workflow called, an exit status out.

torch and timm load only once a command runs.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from . import __version__
from .errors import StoreError, TokenprobeError
from .extract.config import EXAMPLES as EXTRACT_EXAMPLES
from .extract.config import ExtractConfig
from .probe.config import EXAMPLES as FIT_EXAMPLES
from .probe.config import FitConfig
from .runtime.flags import PROGRAM, Program, UsageError
from .runtime.help import ReadableGroup
from .workflows.config import EXPORT_EXAMPLES, PREDICT_EXAMPLES, ExportConfig, PredictConfig

STAGES, STORES, LISTS = "Stages", "Stores and runs", "Lists"
KEEP_WHAT_IS_FINISHED = ("extract", "fit", "verify", "demo")
EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 2, 130, 141, 143
WIDE = 160

app = typer.Typer(
    cls=ReadableGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="probe COMMAND --help shows the options of a command, with examples.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
program = Program(app)

Store = Annotated[str, typer.Argument(metavar="STORE", help="Made by probe extract.")]


class _Terminated(BaseException):
    """SIGTERM arrived."""

    arrived = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit status."""
    name = PROGRAM
    _Terminated.arrived = False
    signal.signal(signal.SIGTERM, _terminate)
    try:
        call = program.parse(sys.argv[1:] if argv is None else argv)
        if isinstance(call, int):
            return call
        name = call.path
        call.run()
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return EXIT_BROKEN_PIPE
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_INPUT
    except (TokenprobeError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted{_what_is_safe(name)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (_Terminated, RuntimeError):
        if not _Terminated.arrived:  # else torch may tell first that a worker was terminated too
            raise
        print(f"{name}: terminated{_what_is_safe(name)}", file=sys.stderr)
        return EXIT_TERMINATED
    return 0


def _what_is_safe(name: str) -> str:
    return "; what was finished is safe" if name.removeprefix(f"{PROGRAM} ") in KEEP_WHAT_IS_FINISHED else ""


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
def _extract(config: ExtractConfig) -> None:
    from .extract import extract

    extract(config)


@program.command("Train heads from stores.", STAGES, FIT_EXAMPLES)
def _fit(
    stores: Annotated[
        list[str], typer.Argument(metavar="STORE", help="Made by probe extract. Several are compared in one run.")
    ],
    config: FitConfig,
) -> None:
    from .probe import fit
    from .probe.report import print_run

    run = fit(stores, config)
    if not config.dry_run:
        print_run(run)


@program.command("Run both stages on bundled images and weights.", STAGES, "probe demo -o my-first-probe")
def _demo(
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the store and the run.")
    ] = "tokenprobe-demo",
) -> None:
    from .workflows.demo import run_demo

    run_demo(out)


@program.command("Show what a store holds, and whether it is complete.", STORES, "probe info mae.zarr --audit")
def _info(
    store: Store,
    audit: Annotated[bool, typer.Option("--audit", help="Measure what smaller dtypes would lose.")] = False,
) -> None:
    from rich.console import Console

    from .store import open_store
    from .store.audit import audit as measure
    from .store.describe import audit_table, describe

    opened = open_store(store)
    print("\n".join(describe(opened)))
    if audit:
        with Console(stderr=True).status("measuring what other dtypes would do to every layer"):
            measured = measure(opened)
        Console().print(audit_table(measured))


@program.command(
    "Read a whole store, and name files that are damaged, missing or foreign.", STORES, "probe verify mae.zarr --repair"
)
def _verify(
    store: Store,
    repair: Annotated[bool, typer.Option("--repair", help="Extract damaged and missing files again.")] = False,
) -> None:
    from .workflows import repair as workflow

    problems = workflow.repair(store) if repair else workflow.check(store)
    for problem in problems:
        print(problem.line)
    if problems:
        raise StoreError(workflow.summary(store, problems))
    print(f"{store}: every file is as it was written")


@program.command("Write tokens as plain files, or compress a store.", STORES, EXPORT_EXAMPLES)
def _export(store: Store, config: ExportConfig) -> None:
    from .workflows.export import export

    export(store, config)


@program.command("Run a trained head on new images.", STORES, PREDICT_EXAMPLES)
def _predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Made by probe fit.")], config: PredictConfig
) -> None:
    from .workflows.predict import predict
    from .workflows.predictions import as_lines

    table = predict(run, config)
    if config.out is None:
        print(as_lines(table), end="")


@program.command(
    "List the backbones that can be loaded, with their layers.",
    LISTS,
    """
probe models 'vit_base*'
probe models 'open_clip:ViT-B-16*' --page 2
probe models 'dinov2*'
""",
)
def _models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Name, with * and ?.")] = "*",
    page: Annotated[int, typer.Option("--page", metavar="N", help="Page of the list.")] = 1,
) -> None:
    from rich.console import Console

    from .extract.backbones.catalogue import page_of, table_of

    shown = page_of(pattern, page)
    with Console(stderr=True).status("looking at the shapes of each"):
        table = table_of(shown)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)  # names in one piece, for grep


@program.command("List the data that can be read, and how to name it.", LISTS, "probe datasets")
def _datasets() -> None:
    from .extract.datasets import describe_datasets

    print("\n".join(describe_datasets()))
