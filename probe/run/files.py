"""Files of a run as they are opened: one that is not what was written is refused, in one line and with the way out."""

from pathlib import Path

from ...errors import RunError

WAY_OUT = "put back a copy of it, or fit into another folder"


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
