"""The schedule against the reference's values."""

import json
from math import cos, pi
from pathlib import Path

import pytest

from tokenprobe.probe.training.schedule import lr_factor


def test_equals_the_reference_implementation(golden: Path) -> None:
    made = json.loads((golden / "cosine_warmup.json").read_text())
    assert made["min_lr"] == 0 and len(made["points"]) > 300
    for epoch, lr in made["points"]:
        assert made["lr"] * lr_factor(epoch, made["epochs"], made["warmup_epochs"]) == pytest.approx(lr, abs=1e-12)


def test_a_fractional_warmup_rises_to_its_end_and_falls_from_there() -> None:
    assert lr_factor(0, 4, 0.4) == 0
    assert lr_factor(0.1, 4, 0.4) == pytest.approx(0.25, abs=1e-12)
    assert lr_factor(0.4, 4, 0.4) == pytest.approx(1, abs=1e-12)
    assert lr_factor(1.3, 4, 0.4) == pytest.approx(0.5 + 0.5 * cos(pi * 0.9 / 3.6), abs=1e-12)
    assert lr_factor(2.2, 4, 0.4) == pytest.approx(0.5, abs=1e-12)
    assert lr_factor(4, 4, 0.4) == pytest.approx(0, abs=1e-12)


def test_without_warmup_the_first_step_has_the_peak_rate() -> None:
    assert lr_factor(0, 10, 0) == 1
    assert lr_factor(5, 10, 0) == pytest.approx(0.5, abs=1e-12)
