"""The places where commands may write: never inside a store or a run, and never over a file of a run.

A manifest identifies a store. Its tables or its `config.yaml` identify a run. The path itself is checked by each
command: it may go on with a store or a run there.
"""

import os
from collections.abc import Iterator
from errno import ENAMETOOLONG
from pathlib import Path

from ..errors import InputError, StoreError
from ..runtime.address import check_writable, is_address
from .formats import local_path, store_of_folder

RUN_TABLES = ("results.parquet", "history.parquet")
RUN_CONFIG, RUN_MARK = "config.yaml", b"\nmade_from:"
RUN_FILES = (RUN_CONFIG, *RUN_TABLES, "results.csv", "summary.md", "report.html", "checkpoint.pt", ".lock")
RUN_FOLDERS = ("heads", "predictions", "figures", "tables", "parts", "attention", "tensorboard", "wandb")
LONGEST_NAME = 255
"""Most bytes in a file's name, on all common disks."""


def check_folder(out: str | Path) -> Path:
    """Return the path of a folder or a store that a command makes or goes on with.

    Raises:
        InputError: no path is given, it is not a valid path, or it is inside a store or a run.
    """
    path = _check(out)
    for folder in _parents(path):
        if is_run(folder):
            raise InputError(f"{str(out)!r} is inside the run {str(folder)!r}; give --out a path outside of it")
    return path


def check_store(out: str | Path) -> str | Path:
    """Return the path or the address of a store that a command makes or goes on with.

    Raises:
        InputError: as `check_folder`, or the address is refused.
    """
    return check_writable(str(out)) if is_address(out) else check_folder(out)


def check_file(out: str | Path) -> Path:
    """Return the path of a file that a command writes. It may be beside the files of a run.

    Raises:
        InputError: no path is given, it is not a valid path, it is inside a store, or it is a file of a run.
    """
    path = _check(out)
    for folder in _parents(path):
        name = Path(os.path.realpath(path)).relative_to(folder).parts[0]
        if name in (*RUN_FILES, *RUN_FOLDERS) and is_run(folder):
            raise InputError(f"{str(out)!r} is a file of the run {str(folder)!r}; give --out another name")
    return path


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of `probe fit`."""
    if all((folder / name).is_file() for name in RUN_TABLES):
        return True
    config = folder / RUN_CONFIG
    return config.is_file() and RUN_MARK in config.read_bytes()


def is_store(folder: Path) -> bool:
    """Whether a folder is a store or holds the blocks of one."""
    try:
        return store_of_folder(folder) is not None
    except StoreError:  # a damaged store
        return True


def _check(out: str | Path) -> Path:
    """Return the path if it is valid and not inside a store, or raise InputError."""
    if not str(out):
        raise InputError("no path given to write to; name one with --out")
    path = local_path(out)
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG))
        os.stat(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"{str(out)!r} is a link to nothing; give --out another path") from None
    except (OSError, ValueError) as error:  # links in a circle, a file in place of a folder, a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write to {str(out)!r} ({reason}); give --out another path") from error
    for folder in _parents(path):
        if is_store(folder):
            raise InputError(f"{str(out)!r} is inside the store {str(folder)!r}; give --out a path outside of it")
    return path


def _parents(path: Path) -> Iterator[Path]:
    """Iterate over the folders that contain a path, after resolving links."""
    yield from Path(os.path.realpath(path)).parents
