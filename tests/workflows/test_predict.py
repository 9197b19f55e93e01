"""`probe predict` on image files: its output against the head alone, and its refusals."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score

from tokenprobe.cli import main
from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.probe import load_head
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.store import open_store
from tokenprobe.workflows.config import PredictConfig
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.predictions import as_csv, as_lines, predicted_rows, write_predictions
from tokenprobe.workflows.probed_model import export_pipeline

from ..probe.kit import pooled_tokens

MakeRun = Callable[..., Run]
CLASSES = ["ant", "bee", "cat"]


def config(images: Path, **changes: Any) -> PredictConfig:
    fields: dict[str, Any] = {"images": str(images), "workers": 0, "device": "cpu", "batch_size": 5}
    return PredictConfig(**fields | changes)


def test_a_run_predicts_its_test_images_as_its_results_say(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["ep:queries=2"])
    row = run.results.iloc[0]
    table = predict(run.path, config(image_folder / "test"))
    truth = [name.partition("/")[0] for name in table["image"]]
    assert list(table["image"]) == sorted(f"{name}/{i:02d}.png" for name in CLASSES for i in range(8))
    assert accuracy_score(truth, table["predicted"]) == row["test_top1"]

    split = open_store(row["store"])["test"]
    with torch.no_grad():
        logits = load_head(run.path, row["cell"])(pooled_tokens(split.store, "test", 2, row["tokens"]))
    scores = dict(zip(split.ids, logits.softmax(1).amax(1).tolist(), strict=True))
    assert list(table["score"]) == pytest.approx([scores[name] for name in table["image"]], abs=1e-4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of photos, half of them turned by a quarter in their EXIF."""
    rng = np.random.default_rng(0)
    for split, n_images in (("train", 12), ("test", 6)):
        for label, name in enumerate(CLASSES):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for index in range(n_images):
                exif = Image.Exif()
                exif[0x0112] = 6 if index % 2 else 1
                pixels = (rng.integers(0, 128, (20, 28, 3)) + np.arange(28)[:, None] * 4 + label).astype(np.uint8)
                path = tmp_path / "photos" / split / name / f"{index:02d}.jpg"
                Image.fromarray(pixels).save(path, exif=exif, quality=100)
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", ["hf", "folder"])
def test_photos_are_turned_as_the_data_of_the_head_were(
    make_run: MakeRun, photos: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf: turns photos upright, folder: does not. In both cases the head sees photos as in training."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    run = make_run(["linear"], data=f"{kind}:{photos}")
    row = run.results.iloc[0]
    split = open_store(row["store"])["test"]
    with torch.no_grad():
        logits = load_head(run.path, row["cell"])(pooled_tokens(split.store, "test", 2, row["tokens"]))
    stored = sorted(logits.softmax(1).amax(1).tolist())
    assert sorted(predict(run.path, config(photos / "test"))["score"]) == pytest.approx(stored, abs=1e-4)
    _, about = load_saved(run.path, row["cell"])
    assert about.transform.get("upright", False) == (kind == "hf")


def test_what_is_printed_and_what_is_written_is_the_same_table(
    make_run: MakeRun, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["linear"])
    flags = ["predict", str(run.path), "--images", str(image_folder / "test" / "ant"), "--workers", "0"]
    capsys.readouterr()
    assert main(flags) == 0
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(printed) == ["image", "predicted", "score"] and len(printed) == 8
    for name in ("p.csv", "p.parquet", "below/p.npz"):
        assert main([*flags, "-o", str(tmp_path / name)]) == 0
    shown = capsys.readouterr()
    assert not shown.out and f"8 images by {run.results['cell'].iloc[0]} -> {tmp_path / 'below/p.npz'}" in shown.err
    assert pd.read_csv(tmp_path / "p.csv").equals(printed)
    kept = pd.read_parquet(tmp_path / "p.parquet")
    assert kept.drop(columns="score").equals(printed.drop(columns="score"))
    assert np.allclose(kept["score"], printed["score"], atol=5e-5)  # four digits
    with np.load(tmp_path / "below" / "p.npz") as arrays:
        assert list(arrays["ids"]) == list(printed["image"]) and list(arrays["classes"]) == CLASSES
        assert arrays["logits"].dtype == np.float32
        scores = torch.from_numpy(arrays["logits"]).softmax(1).max(1)
    assert [CLASSES[label] for label in scores.indices] == list(kept["predicted"])
    assert np.allclose(scores.values, kept["score"], rtol=1e-6)


def test_names_of_images_and_classes_act_neither_on_a_spreadsheet_nor_on_a_terminal(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"image": ["=1+1.png", "a\x1b[2J.png"], "predicted": ["@cat", "two\nlines"], "score": [0.5, 1]}
    )
    assert pd.read_csv(io.StringIO(as_csv(table))).to_numpy().tolist() == [
        ["'=1+1.png", "'@cat", 0.5], ["a\x1b[2J.png", "two\nlines", 1],
    ]  # fmt: skip
    assert as_lines(table).splitlines() == [
        "image,predicted,score", "'=1+1.png,'@cat,0.5000", r"a\x1b[2J.png,two\nlines,1.0000",
    ]  # fmt: skip
    for name, read in (("p.parquet", pd.read_parquet), ("p.csv", pd.read_csv)):
        write_predictions(table, [], None, tmp_path / name)  # type: ignore[arg-type]  # not used for these
        assert (read(tmp_path / name)["image"][0] == "=1+1.png") == (name == "p.parquet")


def test_the_backbone_computes_in_the_precision_asked_for(
    make_run: MakeRun, image_folder: Path, tmp_path: Path
) -> None:
    run, folder = make_run(["linear"]), image_folder / "test" / "ant"
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    pixels = [Pixels(model.transform)(Image.open(file)) for file in sorted(folder.iterdir())]
    images, logits = normalise(torch.stack(pixels), model.transform), {}
    for amp in ("off", "bfloat16"):
        predict(run.path, config(folder, amp=amp, out=tmp_path / "p.npz", batch_size=8))
        logits[amp] = np.load(tmp_path / "p.npz")["logits"]
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model.forward_features(images)
        rounded = model.forward_head(tokens).float()
    torch.testing.assert_close(torch.from_numpy(logits["off"]), exact)
    torch.testing.assert_close(torch.from_numpy(logits["bfloat16"]), rounded)
    assert not torch.allclose(exact, rounded)


@pytest.mark.usefixtures("messages")
def test_one_file_is_enough(make_run: MakeRun, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(["linear"])
    capsys.readouterr()
    table = predict(run.path, config(image_folder / "test" / "bee" / "03.png"))
    assert re.search(r"^predict 1/1 image  .*\n1 image by ", capsys.readouterr().err)
    whole = predict(run.path, config(image_folder / "test" / "bee"))
    assert list(table["image"]) == ["03.png"] and table["predicted"].iloc[0] == whole["predicted"].iloc[3]


def test_several_classes_an_image_are_those_above_a_half() -> None:
    logits = torch.tensor([[2.0, -1.0, 1.0], [-3.0, -2.0, -1.0]])
    about: Any = SimpleNamespace(classes=CLASSES, multi_label=True, logits=True)
    first, second = predicted_rows(["x", "y"], logits, about)
    assert first == {"image": "x", "predicted": "ant|cat", "score": "0.8808|0.7311"}  # 1 / (1 + exp(-2)), exp(-1)
    assert second == {"image": "y", "predicted": "", "score": ""}
    halves = predicted_rows(["x", "y"], torch.tensor([[0.0, 1e-6, -1e-6], [0.0, 0.0, 0.0]]), about)
    assert [row["predicted"] for row in halves] == ["bee", ""], "a half is not above a half"
    about.logits = False
    estimates = predicted_rows(["x"], torch.tensor([[0.6, -0.1, 0.5]]), about)
    assert estimates == [{"image": "x", "predicted": "ant", "score": "0.6000"}]


def test_estimates_of_ridge_regression_are_no_logits(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["ridge:pool=cls"])
    row = run.results[run.results["selected"]].iloc[0]
    table = predict(run.path, config(image_folder / "test"))
    split = open_store(row["store"])["test"]
    with torch.no_grad():
        estimates = load_head(run.path, row["cell"])(pooled_tokens(split.store, "test", 2, row["tokens"]))
    highest = dict(zip(split.ids, estimates.amax(1).tolist(), strict=True))
    assert list(table["score"]) == pytest.approx([highest[name] for name in table["image"]], abs=1e-4)


def test_among_several_cells_the_best_are_named(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["linear", "ep:queries=2"], layers="0,2")
    best = run.results.sort_values("val_top1", ascending=False, kind="stable")
    expected = f"4 selected cells with a head; give one with --cell, such as {best['cell'].iloc[0]} \\(val_top1 "
    with pytest.raises(InputError, match=expected):
        predict(run.path, config(image_folder))
    chosen = run.results["cell"].iloc[2]
    assert len(predict(run.path, config(image_folder / "test", cell=chosen))) == 24
    with pytest.raises(InputError, match=f"unknown cell of '{run.path}' 'none'"):
        predict(run.path, config(image_folder, cell="none"))


@pytest.mark.usefixtures("messages")
def test_a_selected_cell_without_weights_is_no_choice(
    make_run: MakeRun, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["knn:k=5", "linear"])
    assert set(run.results["head"][run.results["selected"]]) == {"knn", "linear"}
    (cell,) = run.results["cell"][run.results["head"] == "linear"]
    assert len(predict(run.path, config(image_folder / "test"))) == 24
    assert f"24 images by {cell}" in capsys.readouterr().err


@pytest.mark.usefixtures("messages")
def test_bad_images_are_named_or_left_out(
    make_run: MakeRun, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["linear"])
    images = tmp_path / "images"
    images.mkdir()
    (images / "bad.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"cannot read image 'bad.png' in '.*images' \(UnidentifiedImageError: "):
        predict(run.path, config(images))
    with pytest.raises(InputError, match=r"none of the images in '.*images' can be read"):
        predict(run.path, config(images, skip_bad_images=True))
    (images / "good.png").write_bytes((image_folder / "test" / "ant" / "00.png").read_bytes())
    assert list(predict(run.path, config(images, skip_bad_images=True))["image"]) == ["good.png"]
    assert "left out bad.png: UnidentifiedImageError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "^batch_size 0: expected at least 1$"),
        ({"workers": -1}, "^workers -1: expected at least 0$"),
        ({"amp": "int4"}, "unknown amp 'int4'; known: auto, off"),
        ({"out": "p.txt"}, "cannot write 'p.txt': expected a file name that ends in .csv, .parquet, .npz"),
        ({"out": f"{__file__}/p.csv"}, rf"cannot write to '{__file__}/p.csv' \(Not a directory\)"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(
    image_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predict(image_folder, config(image_folder, **changes))


def test_what_cannot_be_written_is_refused_before_anything_is_loaded(image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot write '.*/p.csv': it is a folder; give another name"):
        predict(image_folder, config(image_folder, out=tmp_path / "p.csv"))
    assert list(tmp_path.iterdir()) == [tmp_path / "p.csv"]


def test_a_run_of_knn_alone_or_without_results_is_refused(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["knn"])
    with pytest.raises(
        MissingError, match=r"no trained heads in '.*/heads'; .* another head than knn, which has no weig"
    ):
        predict(run.path, config(image_folder))
    (run.path / "heads").mkdir()
    (run.path / "results.parquet").unlink()
    with pytest.raises(MissingError, match=r"run '.*/run' has no results yet; wait for its probe fit, or give one of"):
        predict(run.path, config(image_folder))


def test_no_images_or_no_run_are_refused(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nothing at '.*gone'; expected an image or a folder"):
        predict(tmp_path, config(tmp_path / "gone"))
    with pytest.raises(MissingError, match=r"no trained heads in '.*/heads'; make a run with probe fit"):
        predict(tmp_path, config(image_folder))


def test_the_best_cell_is_the_one_that_the_summary_selects(make_run: MakeRun, image_folder: Path) -> None:
    run = make_run(["ep:queries=2", "linear:pool=mean", "linear:pool=cls", "knn"])
    with_weights = run.results[run.results["head"] != "knn"]
    best = with_weights.loc[with_weights["val_top1"].idxmax()]
    folder = image_folder / "test" / "ant"
    found = predict(run.path, config(folder, cell="best"))
    assert found.equals(predict(run.path, config(folder, cell=best["cell"])))
    with pytest.raises(InputError, match=r"such as .*, or best; all are in its results.csv"):
        predict(run.path, config(folder))
