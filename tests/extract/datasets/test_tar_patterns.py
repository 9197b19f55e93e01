"""Patterns of many files, against the package `braceexpand`, which WebDataset uses."""

from pathlib import Path

import braceexpand
import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.datasets.tar_patterns import expand_braces, find_tars


@pytest.mark.parametrize(
    "pattern", ["a", "a-{00..11}.tar", "{x,y,}-{0..2}", "{08..11}{a}", "s/{000..001}/{train,val}-{5..5}.tar"]
)
def test_braces_expand_as_webdataset_does(pattern: str) -> None:
    assert expand_braces(pattern) == [text.replace("{a}", "a") for text in braceexpand.braceexpand(pattern)]


def test_a_range_that_runs_downwards_says_so() -> None:
    message = r"^\{9\.\.0\} in 'train-\{9\.\.0\}\.tar' runs downwards and stands for no file; write \{0\.\.9\}$"
    with pytest.raises(InputError, match=message):
        expand_braces("train-{9..0}.tar")


@pytest.mark.parametrize("pattern", ["{0..1000000}", "{0..999999999999999999}", "{0..999}{0..999}{0,1}"])
def test_more_files_than_there_can_be_are_refused_at_once(pattern: str) -> None:
    with pytest.raises(InputError, match=r"stands for (more than 1,000,000|2,000,000) files"):
        expand_braces(pattern)


def test_a_number_of_any_length_is_a_name() -> None:
    name = "9" * 5000
    assert expand_braces(f"{{0..{name}}}") == [f"0..{name}"]


def test_files_of_a_star_come_by_name_and_folders_are_none(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.tar").mkdir()
    assert find_tars(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert find_tars(f"{tmp_path}/{{b,a}}.tar") == [f"{tmp_path}/b.tar", f"{tmp_path}/a.tar"]
    for missing in ("c.tar", "c*.tar", ""):
        with pytest.raises(MissingError, match=r"^no file at '.*'; expected local tars at '.*'$"):
            find_tars(f"{tmp_path}/{missing}" if missing else "")
