"""`probe attend`: maps against the weights that `forward` uses, and against images whose bright patch is known."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.probe.report.best import best_cell
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.store import Store, open_store
from tokenprobe.workflows.attend import attend, attentive_cell, spatial_maps
from tokenprobe.workflows.config import AttendConfig

from ..conftest import TINY_VIT
from ..probe.kit import fit_made, pooled_tokens, write_made

MakeRun = Callable[..., Run]
COLOURS = np.array([[255, 40, 40], [40, 255, 40], [40, 40, 255]])
N_TRAIN, N_TEST = 150, 30


def bright_images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dark images whose class is the colour of one bright patch, their labels, and the place of the patch."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 20, (n, 16, 16, 3))
    labels, places = rng.permutation(n) % 3, rng.integers(0, 16, n)
    for image, label, place in zip(images, labels, places, strict=True):
        row, column = divmod(place, 4)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = COLOURS[label]
    return images.astype(np.uint8), labels, places


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bright.npz`, its store, and a run of EP on it."""
    folder = tmp_path_factory.mktemp("bright")
    arrays: dict[str, Any] = {}
    for split, n, seed in (("train", N_TRAIN, 0), ("test", N_TEST, 1)):
        arrays[f"x_{split}"], arrays[f"y_{split}"], _ = bright_images(n, seed)
    np.savez(folder / "bright.npz", **arrays)
    extract(
        ExtractConfig(
            model="timm:VisionTransformer",
            model_arg=TINY_VIT,
            no_pretrained=True,
            data=f"npz:{folder / 'bright.npz'}",
            out=folder / "bright.zarr",
            workers=0,
            layers="0",
        )
    )
    config: dict[str, Any] = {"optimizer": "adamw", "lr": [0.1], "epochs": 60, "batch_size": 15, "device": "cpu"}
    fit(folder / "bright.zarr", FitConfig(out=folder / "run", heads=["ep:queries=4", "linear:pool=cls"], **config))
    return folder


def test_the_merged_map_is_highest_on_the_bright_patch(bright: Path, tmp_path: Path) -> None:
    found = attend(bright / "run", AttendConfig(n=24, out=tmp_path))
    _, _, places = bright_images(N_TEST, 1)
    ids = list(found.table["image"].unique())
    expected = [places[int(key.rpartition("/")[2])] for key in ids]
    assert found.maps is not None and found.maps.shape == (24, 4, 16)
    assert np.mean(found.maps.mean(1).argmax(-1) == expected) > 0.9  # 1/16 by chance

    sheet = np.asarray(Image.open(tmp_path / "attention.png").convert("RGB"), dtype=float)
    assert sheet.std() > 20, "something is drawn"


def test_the_maps_are_the_weights_with_which_the_head_sums_tokens(bright: Path, tmp_path: Path) -> None:
    found = attend(bright / "run", AttendConfig(n=12, out=tmp_path))
    assert found.maps is not None
    assert found.maps.sum(-1) == pytest.approx(np.ones((12, 4)))
    head, store = load_head(bright / "run", found.cell), open_store(bright / "bright.zarr")
    rows = [store["test"].ids.index(key) for key in found.table["image"].unique()]
    tokens = pooled_tokens(store, "test", 0, "patch")[rows]
    weights = {name: value.double() for name, value in head.state_dict().items()}
    values = torch.einsum("bmn,bnd->bmd", torch.from_numpy(found.maps), tokens.double())
    pooled = torch.einsum("bmd,mwd->bmw", values, weights["pooling.value"][0].unflatten(0, (4, 3))).flatten(1)
    normed = (pooled - weights["running_mean"]) / (weights["running_var"] + 1e-6).sqrt()
    logits = normed @ weights["weight"][0].T + weights["bias"]
    with torch.no_grad():
        assert logits.numpy() == pytest.approx(head(tokens).double().numpy(), abs=1e-4)


def test_the_table_has_a_row_per_image_and_map(bright: Path, tmp_path: Path) -> None:
    found = attend(bright / "run", AttendConfig(n=5, out=tmp_path))
    table = pd.read_csv(tmp_path / "maps.csv")
    assert list(table) == ["image", "label", "map", "part", "weight", "entropy", "complementarity"]
    assert list(table["map"]) == ["1", "2", "3", "4", "merged", "class token"] * 5
    assert found.table["entropy"].to_numpy() == pytest.approx(table["entropy"].to_numpy(), abs=1e-6)
    assert found.maps is not None and found.facts["images"] == 5
    merged = found.maps.mean(1)
    expected = -(merged * np.log(merged)).sum(-1) / np.log(16)
    assert table[table["map"] == "merged"]["entropy"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert sorted(number for part in found.facts["parts"] for number in part) == [1, 2, 3, 4]
    assert table.groupby("map")["part"].nunique().loc[["1", "2", "3", "4"]].tolist() == [1] * 4
    again = attend(bright / "run", AttendConfig(n=5, out=tmp_path / "again"))
    for name in again.files:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_files_go_into_the_run_and_the_command_says_where(bright: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = attentive_cell(bright / "run")
    assert "-ep-queries=4-" in cell
    assert main(["attend", str(bright / "run"), "--n", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"entropy of a map [01]\.\d\d \(0: one patch, 1: all alike\), of the merged map [01]\.\d\d, "
        r"of class-token similarity [01]\.\d\d",
        said[0],
    )
    assert f"{bright / 'run' / 'attention' / cell}/" in said
    assert (bright / "run" / "attention" / cell / "maps.svg").is_file()
    assert main(["attend", str(bright / "run"), "--n", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cell"] == cell and len(facts["rows"]) == 2 * 6 and facts["rows"][4]["part"] is None


def test_image_files_go_through_the_backbone(make_run: MakeRun, image_folder: Path, tmp_path: Path) -> None:
    run = make_run(["ep:queries=2,tokens=patch+prefix"])
    config = AttendConfig(n=2, images=str(image_folder / "test" / "ant"), out=tmp_path / "out", device="cpu")
    found = attend(run.path, config)
    assert list(found.table["image"].unique()) == ["00.png", "01.png"]
    store = open_store(run.results["store"].iloc[0])
    rows = [store["test"].ids.index(f"ant/{name}") for name in ("00.png", "01.png")]
    saved, about = load_saved(run.path, found.cell)
    with torch.no_grad():
        weights = saved.pooling.attention(pooled_tokens(store, "test", 2, "prefix+patch")[rows])  # type: ignore[operator]
    maps, on_patches = spatial_maps(weights.double().numpy(), about)
    assert found.maps == pytest.approx(maps, abs=1e-5)
    merged = found.table[found.table["map"] == "merged"]
    assert merged["weight"].to_numpy() == pytest.approx(on_patches.mean(1), abs=1e-5)
    assert (on_patches < 1).all(), "prefix tokens have a part of the weight"


def test_maps_of_stacked_layers_are_summed_over_layers(write_store: Callable[..., Store], tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    head = "ep:queries=4,tokens=patch+prefix"
    run = fit_made(store, tmp_path / "run", heads=[head], layers="stack:all", lr=[1.0], epochs=1)
    found = attend(run.path, AttendConfig(n=6, out=tmp_path / "out"))
    saved, about = load_saved(run.path, found.cell)
    rows = [store["test"].ids.index(key) for key in found.table["image"].unique()]
    split = store["test"]
    arrays = [
        torch.from_numpy(split.tokens(layer, rows, kind=kind)) for kind in ("prefix", "patch") for layer in (0, 1)
    ]
    with torch.no_grad():
        weights = saved.pooling.attention(torch.cat(arrays, dim=1).float()).double().numpy()  # type: ignore[operator]
    for b, m in np.ndindex(6, 4):
        summed = [weights[b, m, 4 + n] + weights[b, m, 4 + 6 + n] for n in range(6)]  # two prefix tokens per layer
        assert found.maps is not None
        assert found.maps[b, m] == pytest.approx(np.array(summed) / sum(summed), rel=1e-5)
    assert spatial_maps(weights, about)[1] == pytest.approx(weights[..., 4:].sum(-1))


def test_weights_that_do_not_sum_to_one_become_maps_that_do(bright: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"lr": [1.0], "epochs": 1, "batch_size": 50, "device": "cpu"}
    heads = ["cait", "clip:heads=2", "cbam", "dolg", "simpool"]
    run = fit(bright / "bright.zarr", FitConfig(out=tmp_path / "run", heads=heads, **config))
    tokens = pooled_tokens(open_store(bright / "bright.zarr"), "test", 0, "patch")
    for cell in run.results["cell"]:
        saved, about = load_saved(run.path, cell)
        with torch.no_grad():
            weights = saved.pooling.attention(tokens).double().numpy()  # type: ignore[operator]
        maps, _ = spatial_maps(weights, about)
        assert maps.sum(-1) == pytest.approx(np.ones(maps.shape[:2])) and (maps >= 0).all()
    found = attend(run.path, AttendConfig(cell=cell, n=3, out=tmp_path / "out"))
    assert "simpool" in cell and found.facts["complementarity"] is None and found.facts["parts"] == [[1]]


def test_heads_without_maps_are_refused(bright: Path, make_run: MakeRun) -> None:
    linear = next(cell for cell in Run(bright / "run").results["cell"] if "linear" in cell)
    with pytest.raises(InputError, match=r"has no attention maps: its head is 'linear'; give a --cell of .* ep"):
        attend(bright / "run", AttendConfig(cell=linear))
    run = make_run(["linear", "ridge"])
    with pytest.raises(InputError, match="has no selected cell whose head has attention maps; name a cell"):
        attend(run.path, AttendConfig())
    with pytest.raises(InputError, match="unknown cell"):
        attend(run.path, AttendConfig(cell="none"))


def test_the_best_for_maps_and_for_predictions_follow_the_summary(bright: Path) -> None:
    run = Run(bright / "run")
    val = run.results.set_index("cell")["val_top1"]
    assert best_cell(run, set(val.index), "cell") == val.idxmax()
    assert attentive_cell(bright / "run") == val[val.index.str.contains("-ep-")].idxmax()
