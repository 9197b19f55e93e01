"""The study at a tiny setting. Its oracle: with fixed views, a backbone in the loop gives the numbers of the cache."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenprobe.probe.run.results import Run

from .kit import N_TEST, SEEDS, check, table

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples/study/cache_cost.py"


@pytest.fixture(scope="module")
def tiny(script: Callable[[str], Any], run_script: Callable[..., Any]) -> Iterator[Any]:
    """Return the study after a run of the script."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(script("cache_cost"), "VIEWS", [1, 2])
        yield run_script("cache_cost", ["linear:pool=mean", "ep:queries=2"])


def test_the_table_stands_between_its_markers_and_the_rest_stays(tiny: Any) -> None:
    text = tiny.page.read_text()
    assert text.startswith("before\n\n<!-- cache_cost tiny-made -->\n| views per training image | MiB |")
    assert text.endswith("<!-- end -->\n\nafter\n")
    assert "old table" not in text
    rows = table(tiny)
    assert [row[0] for row in rows[1:]] == ["1 cached", "2 cached", "fresh in every epoch"]
    results = Run(tiny.folder / "runs/views").results
    of_cell = results[results["selected"] & (results["head"] == "ep") & (results["name"] == "2 cached")]["test_top1"]
    check(rows[2][4], 100 * of_cell.mean(), 100 * of_cell.std())
    assert "80 training and 40 test images, `made.safetensors`, 2 seeds, 5 epochs, rates 1, 10." in text
    with Image.open(tiny.out / "images/study_cache_cost_tiny-made.png") as picture:
        assert min(picture.size) > 300


def test_a_page_without_a_place_for_the_table_is_refused(script: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("<!-- cache_cost tiny -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="no place for this table; add the lines <!-- other tiny --> and <!-- end -->"):
        script("setting").replace_marked(tmp_path / "page.md", "other tiny", "text")


def test_the_backbone_in_the_loop_gives_the_numbers_of_the_cache(script: Callable[[str], Any], tiny: Any) -> None:
    """Views 0 to 3 and then 0 again, five epochs; one view more or less gives others."""
    cached = Run(tiny.folder / "runs/exact")
    loss, n_equal, n_all = script("cache_cost").differences(cached, Run(tiny.folder / "runs/exact_online"))
    assert loss < 1e-4
    assert n_equal >= 0.99 * n_all
    assert n_all == 2 * SEEDS * N_TEST
    configs = tiny.extractions("exact", views=5, **script("cache_cost").CROPS)
    config = replace(tiny.fitting("other"), heads=tiny.heads)
    other = script("online").fit_online(configs, tiny.folder / "exact.zarr", config, 5)
    losses = [run.history.groupby("epoch")["train_loss"].mean() for run in (cached, other)]
    assert np.abs(losses[0] - losses[1])[:4].max() < 1e-4
    assert np.abs(losses[0] - losses[1])[5] > 1e-3


def test_make_study_fills_every_place_of_the_page() -> None:
    places = re.findall(r"^<!-- (\w+) demo -->$", (ROOT / "docs/study.md").read_text(), re.MULTILINE)
    recipe = re.search(r"^STUDY := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asks = {file.stem for file in SCRIPT.parent.glob("*.py") if "main(ask(" in file.read_text()}
    assert recipe is not None
    assert sorted(recipe[1].split()) == sorted(places)
    assert asks == set(places)
