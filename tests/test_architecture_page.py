"""docs/architecture.md and its picture: every file they name is there, and the floors are those of the house."""

import re
from pathlib import Path

import pytest

from .test_house import PROBE_FLOORS

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "images" / "architecture.svg"


def named_in_page() -> list[str]:
    return sorted(set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE.read_text())))


def named_in_picture() -> list[str]:
    """Return the paths: a step's first file is named in full, those after it from the same folder or one below."""
    names = []
    for line in re.findall(r">((?:extract|store|probe)/[^<]*)<", PICTURE.read_text()):
        if " " in line and "," not in line:
            continue  # the legend
        first, *others = line.split(", ")
        folder = first.rpartition("/")[0]
        for other in others:
            near = [f"{folder}/{other}", f"{folder.split('/')[0]}/{other}", other]
            names.append(next((name for name in near if (ROOT / name).exists()), f"{line}: {other}"))
        names.append(first)
    return sorted(set(names))


@pytest.mark.parametrize("name", named_in_page())
def test_a_file_that_the_page_names_is_there(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "probe" / name).exists()


@pytest.mark.parametrize("name", named_in_picture())
def test_a_file_that_the_picture_names_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_the_page_names_many_files() -> None:
    assert len(named_in_page()) > 30 and len(named_in_picture()) > 30


def test_the_floors_are_those_of_the_house() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", PAGE.read_text(), re.MULTILINE)
    found = {
        int(number): sorted(name.strip("`/ ").removesuffix(".py") for name in rooms.split(","))
        for number, rooms in rows
    }
    assert found == {number: sorted(rooms) for number, rooms in enumerate(PROBE_FLOORS[:-1], start=1)}
