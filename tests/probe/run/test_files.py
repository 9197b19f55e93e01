"""Opening files of a run: what is not there, what cannot be read, and what is damaged."""

from pathlib import Path

import pytest

from tokenprobe.errors import RunError
from tokenprobe.probe.run.files import damaged, read_file


def test_a_file_is_read_and_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    assert read_file(tmp_path / "a") == b"1"
    assert read_file(tmp_path / "b") is None and read_file(tmp_path / "c" / "d") is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "Is a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("dangling", "No such file or directory"),
        ("below a file", "Not a directory"),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path, kind: str, reason: str) -> None:
    """A link to a disk that is not there would otherwise be a run without results, to be made again."""
    path = tmp_path / "results"
    if kind == "folder":
        path.mkdir()
    elif kind == "below a file":
        (tmp_path / "run").write_bytes(b"")
        path = tmp_path / "run" / "results"
    else:
        path.symlink_to(path if kind == "loop" else tmp_path / "nothing")
    message = rf"'.*/results' cannot be read \({reason}\); put back a copy of it, or fit into another folder"
    with pytest.raises(RunError, match=message):
        read_file(path)


def test_a_damaged_file_is_named_in_one_line(tmp_path: Path) -> None:
    error = damaged(tmp_path / "a", ValueError("two\n  lines"))
    assert str(error).startswith(
        f"'{tmp_path}/a' is damaged, or was written by another version of tokenprobe (two lines)"
    )
    assert "(KeyError)" in str(damaged(Path("a"), KeyError()))
