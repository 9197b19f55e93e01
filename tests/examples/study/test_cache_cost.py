"""The study at a tiny setting. Its oracle: with fixed views, a backbone in the loop gives the numbers of the cache."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import VisionTransformer

from tokenprobe.probe.run.results import Run

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples/study/cache_cost.py"
ARCH = "VisionTransformer(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0)"
N_TRAIN, N_TEST, SEEDS = 80, 40, 2
PAGE = "before\n\n<!-- cache_cost tiny -->\nold table\n<!-- end -->\n\nafter\n"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPT.parent))
        import cache_cost
        import online
        import setting

        patched.setattr(cache_cost, "VIEWS", [1, 2])
        yield {"cache_cost": cache_cost, "online": online, "setting": setting}


@pytest.fixture(scope="module")
def tiny(scripts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the study of a tiny backbone on noise, after a run of the script."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n in (("train", N_TRAIN), ("test", N_TEST)):
        labels = np.arange(n) % 4
        pixels = rng.integers(0, 120, (n, 12, 12, 3)) + 40 * labels[:, None, None, None]
        arrays |= {f"x_{split}": pixels.astype(np.uint8), f"y_{split}": labels}
    np.savez(folder / "tiny.npz", **arrays)
    torch.manual_seed(0)
    model = VisionTransformer(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    metadata = {"arch": ARCH, "mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"}
    save_file(model.state_dict(), folder / "tiny.safetensors", metadata)
    (folder / "page.md").write_text(PAGE)
    study = scripts["setting"].Study(
        name="cache_cost", data=f"npz:{folder / 'tiny.npz'}", weights=folder / "tiny.safetensors", out=folder,
        page=folder / "page.md", n_train=N_TRAIN, n_test=N_TEST, seeds=SEEDS, epochs=5, lr=[1.0, 10.0],
        heads=["linear:pool=mean", "ep:queries=2"],
    )  # fmt: skip
    scripts["cache_cost"].main(study)
    return study


def test_the_table_stands_between_its_markers_and_the_rest_stays(tiny: Any) -> None:
    text = tiny.page.read_text()
    assert text.startswith("before\n\n<!-- cache_cost tiny -->\n| views per training image | MiB |")
    assert text.endswith("<!-- end -->\n\nafter\n")
    assert "old table" not in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| 1 cached", "| 2 cached", "| fresh in every epoch"]
    results = Run(tiny.out / "runs/views").results
    of_cell = results[results["selected"] & (results["head"] == "ep") & (results["name"] == "2 cached")]["test_top1"]
    assert rows[2][4] == f"{100 * of_cell.mean():.1f} ± {100 * of_cell.std():.1f}"
    assert "80 training and 40 test images, `tiny.safetensors`, 2 seeds, 5 epochs, rates 1, 10." in text
    with Image.open(tiny.out / "images/study_cache_cost_tiny.png") as picture:
        assert min(picture.size) > 300


def test_a_page_without_a_place_for_the_table_is_refused(scripts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    with pytest.raises(ValueError, match="no place for this table; add the lines <!-- other tiny --> and <!-- end -->"):
        scripts["setting"].replace_marked(tmp_path / "page.md", "other tiny", "text")


def test_the_backbone_in_the_loop_gives_the_numbers_of_the_cache(scripts: dict[str, Any], tiny: Any) -> None:
    """Views 0 to 3 and then 0 again, five epochs; one view more or less gives others."""
    cached = Run(tiny.out / "runs/exact")
    loss, n_equal, n_all = scripts["cache_cost"].differences(cached, Run(tiny.out / "runs/exact_online"))
    assert loss < 1e-4
    assert n_equal >= 0.99 * n_all
    assert n_all == 2 * SEEDS * N_TEST
    configs = tiny.extractions("exact", views=5, **scripts["cache_cost"].CROPS)
    config = replace(tiny.fitting("other"), heads=tiny.heads)
    other = scripts["online"].fit_online(configs, tiny.out / "exact.zarr", config, 5)
    losses = [run.history.groupby("epoch")["train_loss"].mean() for run in (cached, other)]
    assert np.abs(losses[0] - losses[1])[:4].max() < 1e-4
    assert np.abs(losses[0] - losses[1])[5] > 1e-3


def test_make_study_fills_every_place_of_the_page() -> None:
    places = re.findall(r"^<!-- (\w+) demo -->$", (ROOT / "docs/study.md").read_text(), re.MULTILINE)
    recipe = re.search(r"^STUDY := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asks = {file.stem for file in SCRIPT.parent.glob("*.py") if "main(ask(" in file.read_text()}
    assert recipe is not None
    assert recipe[1].split() == places
    assert asks == set(places)
