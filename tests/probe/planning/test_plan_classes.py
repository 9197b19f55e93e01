"""Splits that do not have the same classes, or none at all: said before training, or refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig, fit
from tokenprobe.store import Store

from .kit import plan_for

Labelled = Callable[..., Store]
TRAIN = 1 + 2 * (np.arange(24) % 2)
"""Classes 1 and 3 of 0 to 4."""
MESSAGE = "3 of 5 classes have no training image ('class 0', 'class 2', 'class 4'): "


@pytest.fixture
def labelled(write_store: Callable[..., Store], tmp_path: Path) -> Labelled:
    """Write a store of given labels, by split."""

    def write(name: str = "s.zarr", **labels: np.ndarray) -> Store:
        rng, tokens = np.random.default_rng(0), {}
        for split, y in labels.items():
            patch = rng.normal(size=(len(y), 4, 8)).astype(np.float16)
            tokens[split] = {0: {"patch": patch, "mean": patch.astype(np.float32).mean(1)}}
        return write_store(tmp_path / name, tokens, labels, grid=(2, 2), block_rows=8)

    return write


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize("dry_run", [False, True])
def test_test_images_of_classes_that_training_lacks_are_said(
    labelled: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str], dry_run: bool
) -> None:
    store = labelled(train=TRAIN, test=np.array([0, 1, 2, 2, 3, 4]))
    heads = ["linear", "knn:k=2", "ridge"]
    config = FitConfig(
        out=tmp_path / "run", heads=heads, lr=[1.0], epochs=2, shots=["full", "2"], device="cpu", dry_run=dry_run
    )
    run = fit(store.path, config)
    said = capsys.readouterr()
    assert said.err.count(f"{MESSAGE}4 of 6 test images are of them, which no head can learn, and count as errors") == 1
    assert dry_run or (run.results["test_top1"] <= 2 / 6).all()


def test_images_of_another_store_and_of_a_split_to_select_on_are_counted_too(labelled: Labelled) -> None:
    store = labelled(train=TRAIN, val=np.array([0, 0, 4, 1]))
    other = labelled("other.zarr", test=np.arange(5))
    plan = plan_for(store, val_split="val", test_store=other.path)
    expected = "3 of 5 test images and 3 of 4 held-out images are of them, which no head can learn, and count as errors"
    assert MESSAGE + expected in plan.about()


def test_subsets_lack_what_no_image_of_them_shows(labelled: Labelled) -> None:
    """Images of several labels are drawn without regard to them."""
    labels = np.zeros((20, 2), dtype=np.int64)
    labels[:, 0], labels[:2, 1] = 1, 1
    store = labelled(train=labels, test=labels[:3])
    plan = plan_for(store, shots=["full"], fraction=[0.1], seeds=4, protocol="paper")
    lacking = [r.seeds[0] for r in plan.grid.regimes if r.shots != "full" and not labels[r.train_rows, 1].any()]
    assert lacking
    said = [line for line in plan.about() if "no training image" in line]
    assert said == [
        f"shots 0.1, seed {lacking[0]}: 1 of 2 classes has no training image ('class 1'): 2 of 3 test images show it, "
        "which no head can learn, and are ranked by chance"
    ]


def test_shots_are_drawn_of_the_classes_that_there_are(labelled: Labelled) -> None:
    plan = plan_for(labelled(train=TRAIN, test=TRAIN[:6]), shots=["1", "4"])
    drawn = [np.bincount(TRAIN[regime.train_rows], minlength=4).tolist() for regime in plan.grid.regimes]
    assert drawn == [[0, 1, 0, 1], [0, 4, 0, 4]]
    expected = "2 of 4 classes have no training image ('class 0', 'class 2'), and no scored image is of them"
    assert [expected in line for line in plan.about()].count(True) == 1


def test_held_out_images_that_show_no_class_give_nothing_to_select_by(labelled: Labelled) -> None:
    labels = np.zeros((20, 2), dtype=np.int64)
    labels[0] = 1
    store = labelled(train=labels, val=labels[1:5], test=labels[:5])
    message = (
        r"none of the 2 held-out images shows a class, .* \(shots full\); hold out more with --val, or give --val-sp"
    )
    with pytest.raises(InputError, match=message):
        plan_for(store)
    with pytest.raises(
        InputError, match=r"no image of split 'val' of '.*s.zarr' shows a class, so it has no precision"
    ):
        plan_for(store, val_split="val")
    assert len(plan_for(store, protocol="paper").grid.regimes[0].val_rows) == 0
