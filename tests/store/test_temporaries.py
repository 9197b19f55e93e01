"""Temporary names: one per writer, and known to be left over once their writer is dead."""

import os
import re
import time
from pathlib import Path

import pytest

from tokenprobe.store.temporaries import (
    QUIET_SECONDS,
    file_of,
    is_left_over,
    new_writer,
    temporary_files,
    temporary_of,
)


def test_every_writer_has_a_name_of_its_own_and_its_temporary_names_lead_back_to_the_file(tmp_path: Path) -> None:
    writers = {new_writer() for _ in range(100)}
    assert len(writers) == 100
    for writer in list(writers)[:5]:
        temporary = temporary_of(tmp_path / "c.0.3.0.0", writer)
        assert temporary.parent == tmp_path and temporary.name != "c.0.3.0.0"
        assert file_of(str(temporary)) == str(tmp_path / "c.0.3.0.0")
        assert not is_left_over(temporary), "this process lives"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/zarr.json.tmp", "a/zarr.json"),
        ("a/zarr.json.0123abcd-17-0123abcd.tmp", "a/zarr.json"),
        ("x.tmp.tmp", "x.tmp"),
        ("x.0123ABCD-17-0123abcd.tmp", "x.0123ABCD-17-0123abcd"),
        ("x.tmp.txt", None),
        (".tmp", None),
        ("c.0.0", None),
    ],
)
def test_the_file_of_a_temporary_name(name: str, file: str | None) -> None:
    assert file_of(name) == file


def test_a_file_is_left_over_once_its_writer_is_dead(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        temporary_of(tmp_path / "c.0", new_writer()).touch()
        os._exit(0)
    os.waitpid(process, 0)
    (temporary,) = tmp_path.iterdir()
    assert f"-{process}-" in temporary.name
    assert is_left_over(temporary)
    assert is_left_over(tmp_path / "c.0.tmp"), "no living writer uses such a name"


def test_a_writer_on_another_machine_is_dead_after_an_hour_of_silence(tmp_path: Path) -> None:
    temporary = tmp_path / re.sub(r"\.[0-9a-f]{8}-", ".00000000-", temporary_of(Path("c.0"), new_writer()).name)
    assert not is_left_over(temporary), "it is gone"
    for age, dead in ((QUIET_SECONDS - 60, False), (QUIET_SECONDS + 60, True)):
        temporary.touch()
        os.utime(temporary, (time.time() - age,) * 2)
        assert is_left_over(temporary) == dead


def test_temporary_files_are_found_in_all_folders(tmp_path: Path) -> None:
    (tmp_path / "train" / "x").mkdir(parents=True)
    writer = new_writer()
    for name in ("zarr.json", "train/x/c.0"):
        temporary_of(tmp_path / name, writer).touch()
    (tmp_path / "train" / "ids.tmp").touch()
    (tmp_path / "train" / "kept").touch()
    found = dict(temporary_files(tmp_path))
    assert sorted(found.values()) == ["train/ids", "train/x/c.0", "zarr.json"]
    assert all((tmp_path / name).is_file() for name in found)
