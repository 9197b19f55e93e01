"""Opening files of a run: what is not there, what cannot be read, and what is damaged."""

from pathlib import Path

import pytest

from tokenprobe.errors import RunError
from tokenprobe.probe.run.files import check_names, damaged, read_file
from tokenprobe.probe.run.results import open_run
from tokenprobe.store.outputs import RUN_FILES, RUN_FOLDERS


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


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_folder_in_place_of_a_file_is_found_before_training(tmp_path: Path, name: str) -> None:
    check_names(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"'.*/{name}' is a folder, but a fit writes a file of this name; move it away"):
        check_names(tmp_path)


@pytest.mark.parametrize("name", RUN_FOLDERS)
def test_a_file_in_place_of_a_folder_is_found_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    check_names(tmp_path)
    (tmp_path / name).rmdir()
    for make in (lambda path: path.write_bytes(b""), lambda path: path.symlink_to(path)):
        make(tmp_path / name)
        with pytest.raises(RunError, match=f"'.*/{name}' is not a folder, but a fit makes a folder of this name"):
            check_names(tmp_path)
        (tmp_path / name).unlink()


def test_a_damaged_file_is_named_in_one_line(tmp_path: Path) -> None:
    error = damaged(tmp_path / "a", ValueError("two\n  lines"))
    assert str(error).startswith(
        f"'{tmp_path}/a' is damaged, or was written by another version of tokenprobe (two lines)"
    )
    assert "(KeyError)" in str(damaged(Path("a"), KeyError()))


def test_a_folder_in_place_of_the_lock_is_found_too(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    opened = open_run(tmp_path)
    with pytest.raises(RunError, match=r"'.*/\.lock' is a folder, but a fit writes a file of this name"):
        opened.__enter__()
