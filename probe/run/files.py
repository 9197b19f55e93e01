"""Files of a run as they are opened: one that is not what was written is refused, in one line and with the way out."""

import os
from pathlib import Path

from ...errors import InputError, RunError
from ...store.outputs import RUN_FILES, RUN_FOLDERS, check_folder, is_store

WAY_OUT = "put back a copy of it, or fit into another folder"


def check_run_folder(out: str | Path) -> Path:
    """Return the path of a run to make or to go on with.

    Raises:
        InputError: it cannot be one, is inside a store or another run, or is a store or a file.
    """
    path = check_folder(out)
    if is_store(path):
        raise InputError(f"{str(out)!r} is a store; give --out another folder for the run")
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(out)!r} is a file; give --out a folder for the run")
    return path


def check_names(run: Path) -> None:
    """Refuse a run in which something else has the name of one of its files or folders: they are written late.

    Raises:
        RunError: it has.
    """
    for name in RUN_FILES:
        if (run / name).is_dir():
            raise RunError(f"{str(run / name)!r} is a folder, and a fit writes a file of this name; move it away")
    for name in RUN_FOLDERS:
        if os.path.lexists(run / name) and not (run / name).is_dir():
            raise RunError(f"{str(run / name)!r} is no folder, and a fit makes a folder of this name; move it away")


def read_file(path: Path) -> bytes | None:
    """Return the content of a file of a run, or None if there is none.

    Raises:
        RunError: something is there that cannot be read: a folder, a link to nothing, a file of another user.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not path.is_symlink():
            return None
        raise RunError(f"{str(path)!r} cannot be read ({error.strerror}); {WAY_OUT}") from error


def damaged(path: Path, reason: object) -> RunError:
    """Make the error for a file whose content is not what was written."""
    why = " ".join(str(reason).split()) or type(reason).__name__
    return RunError(f"{str(path)!r} is damaged, or was written by another version of tokenprobe ({why}); {WAY_OUT}")
