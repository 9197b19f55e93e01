"""What the tests of the study share: the sizes of the tiny setting, and the table that a script writes."""

import re
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "examples/study"
N_TRAIN, N_TEST, SEEDS = 80, 40, 2


def table(study: Any) -> list[list[str]]:
    """Return the cells of the table on a study's page, without the line below the names of the columns."""
    lines = [line for line in study.page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def check(cell: str, *expected: float) -> None:
    """Expect these numbers first in a cell of the table, with one decimal; or a dash if there are none."""
    found = [float(number) for number in re.findall(r"[-+]?\d+\.\d", cell.replace("−", "-"))]
    assert found[: len(expected)] == pytest.approx(list(expected), abs=0.0501), cell
    assert (cell == "–") is not bool(expected)
