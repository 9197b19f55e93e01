"""A run whose store was extracted from real image files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.run.results import Run

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tiny_config: Callable[..., ExtractConfig], tmp_path: Path) -> MakeRun:
    """Extract in float32 and fit one epoch at one rate; keyword arguments replace fields of the extraction."""

    def make(
        heads: list[str], *, layers: str = "2", norm: Literal["none", "final"] = "none", seeds: int = 1, **changes: Any
    ) -> Run:
        store = extract(tiny_config(**{"dtype": "float32", "out": tmp_path / "made.zarr"} | changes))
        config = FitConfig(
            out=tmp_path / "run", heads=heads, layers=layers, norm=norm, seeds=seeds, lr=[10.0], epochs=1, device="cpu"
        )
        return fit(store, config)

    return make
