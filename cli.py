"""The `probe` command: it runs one command line. Errors and signals become one line on stderr and an exit status."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from . import __version__
from .commands import app, program
from .errors import TokenprobeError
from .runtime.flags import PROGRAM, UsageError
from .runtime.stopping import Terminated, heed_signals, is_stopping
from .runtime.text import printable
from .runtime.threads import spin_briefly

KEEP_WHAT_IS_FINISHED = ("extract", "fit", "verify", "demo")
EXIT_INPUT, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 2, 130, 141, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit status."""
    name = PROGRAM
    heed_signals()
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
    except (Terminated, RuntimeError):
        if not is_stopping():  # after SIGTERM, torch may first report that a worker was terminated
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
