"""Checks of a run's files. A changed file is refused with a one-line error that gives the remedy."""

import os
from pathlib import Path

from ...errors import InputError, RunError
from ...store.outputs import RUN_FILES, RUN_FOLDERS, check_folder, is_store

WAY_OUT = "put back a copy of it, or fit into another folder"


def check_run_folder(out: str | Path) -> Path:
    """Return the path of a run to create or continue.

    Raises:
        InputError: the path is a store or a file, is inside a store or another run, or cannot be a folder.
    """
    path = check_folder(out)
    if is_store(path):
        raise InputError(f"{str(out)!r} is a store; give --out another folder for the run")
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(out)!r} is a file; give --out a folder for the run")
    return path


def check_names(run: Path) -> None:
    """Refuse a run folder in which a file or folder of the run cannot be written. A fit writes some of them late.

    Raises:
        RunError: a folder has the name of a file, or a file has the name of a folder.
    """
    for name in RUN_FILES:
        if (run / name).is_dir():
            raise RunError(f"{str(run / name)!r} is a folder, but a fit writes a file of this name; move it away")
    for name in RUN_FOLDERS:
        if os.path.lexists(run / name) and not (run / name).is_dir():
            raise RunError(f"{str(run / name)!r} is not a folder, but a fit makes a folder of this name; move it away")


def read_file(path: Path) -> bytes | None:
    """Return the content of a file of a run, or None if there is none.

    Raises:
        RunError: the path exists and cannot be read: a folder, a broken link, another user's file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return None
        raise RunError(f"{str(path)!r} cannot be read ({error.strerror}); {WAY_OUT}") from error


def damaged(path: Path, reason: object) -> RunError:
    """Make the error for a file with changed content."""
    why = " ".join(str(reason).split()) or type(reason).__name__
    return RunError(f"{str(path)!r} is damaged, or was written by another version of tokenprobe ({why}); {WAY_OUT}")
