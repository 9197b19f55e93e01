"""Mistakes that probing tools have made, each with the test that would have caught it here.

The ones about a cache (stale, half-written, padded) are in `tests/store/test_faults.py` and
`tests/extract/test_pipeline.py`, those about heads that influence one another in `test_together.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.store import Store

from .kit import BLOCK_ROWS, GRID, LABELS, fit_made, plan_of, tokens_of, write_made

WriteStore = Callable[..., Store]


def test_selected_is_not_the_maximum_over_heads_and_epochs_on_test(write_store: WriteStore, tmp_path: Path) -> None:
    """Published scores are maxima over up to 52 heads on the reported set; ours is not, and says what they would be."""
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", epochs=12, lr=[0.3, 1.0, 3.0, 10.0, 30.0], val=0.3)
    selected = run.results[run.results["selected"]]
    peaks = run.results.groupby(["layer", "head", "head_config"])["peak_test_top1"].max()
    own = selected.set_index(["layer", "head", "head_config"])["test_top1"]
    assert (own <= peaks).all() and (own < peaks).any()
    said = (run.path / "summary.md").read_text()
    peak = 100 * run.results["peak_test_top1"].max()
    assert f"{peak:.1f}" in said and said.count("optimism") > len(set(run.results["head_config"]))


def test_few_shot_subsets_and_validation_use_training_images_alone(write_store: WriteStore, tmp_path: Path) -> None:
    """A benchmark drew its shots from the labels that it reported on."""
    store = write_made(write_store, tmp_path / "s.zarr")
    changed = LABELS | {"test": (LABELS["test"] + 1) % 4}
    other = write_made(write_store, tmp_path / "o.zarr", labels=changed)
    plans = [plan_of(s, shots=["4", "1"], seeds=3) for s in (store, other)]
    for one, two in zip(plans[0].grid.regimes, plans[1].grid.regimes, strict=True):
        assert np.array_equal(one.train_rows, two.train_rows) and np.array_equal(one.val_rows, two.val_rows)
        assert not set(one.train_rows) & set(one.val_rows)


def test_a_class_that_is_short_of_images_is_an_error(write_store: WriteStore, tmp_path: Path) -> None:
    """Others print "insufficient data", or return nothing."""
    store = write_made(write_store, tmp_path / "s.zarr")
    with pytest.raises(InputError, match="shots 21: class 'class 0' has 20 images to train on"):
        fit_made(store, tmp_path / "run", shots=["21"])


def test_subsets_do_not_depend_on_global_random_state(write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    plans = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        plans.append(plan_of(store, shots=["3"], seeds=2))
    for one, two in zip(plans[0].grid.regimes, plans[1].grid.regimes, strict=True):
        assert np.array_equal(one.train_rows, two.train_rows)


def test_an_epoch_sees_every_image_once_and_mixes_the_whole_store() -> None:
    """A buffer that is shuffled alone, or not at all, leaves batches of neighbours."""
    rows = np.arange(4096)
    order = np.concatenate(epoch_windows(rows, 32, seed=0, epoch=3))
    assert sorted(order) == list(rows)
    batches = order.reshape(-1, 256)
    blocks_of_batch = [len(np.unique(batch // 32)) for batch in batches]
    assert min(blocks_of_batch) == 8  # a batch as large as a window of eight blocks has images of all eight
    first = np.concatenate(epoch_windows(rows, 32, seed=0, epoch=0)).reshape(-1, 256)
    shared = [max(len(np.intersect1d(a, b)) for b in first) for a in batches]
    assert np.mean(shared) < 128  # no batch of one epoch comes back in another


def test_both_flags_of_precision_mean_what_they_say(write_store: WriteStore, tmp_path: Path) -> None:
    """A flag for bfloat16 that gave float16 went unnoticed elsewhere."""
    store = write_made(write_store, tmp_path / "s.zarr")
    losses = {
        amp: fit_made(store, tmp_path / amp, amp=amp, layers="1", heads=["ep:queries=4"])
        .history["train_loss"]
        .to_numpy()
        for amp in ("off", "bfloat16", "float16")
    }
    errors = {amp: np.abs(losses[amp] - losses["off"]).max() for amp in ("bfloat16", "float16")}
    assert 0 < errors["float16"] < errors["bfloat16"] < 0.05


def test_every_choice_of_tokens_reads_the_tokens_it_names(write_store: WriteStore, tmp_path: Path) -> None:
    """A condition that was always true gave another backbone's tokens to every head."""
    whole = write_made(write_store, tmp_path / "s.zarr")
    reads: dict[str, set[str]] = {}
    heads = [
        "ep:queries=4",
        "ep:queries=4,tokens=patch+prefix",
        "linear:pool=cls",
        "linear:pool=mean",
        "linear:pool=max",
        "linear:pool=embedding",
    ]
    for kind in ("patch", "prefix", "mean", "embedding"):
        tokens = {split: tokens_of(split) for split in LABELS}
        for of_split in tokens.values():
            of_split[1][kind] *= 0
        blank = write_store(tmp_path / f"{kind}.zarr", tokens, LABELS, grid=GRID, block_rows=BLOCK_ROWS)
        settings: dict[str, Any] = {"heads": heads, "layers": "1", "lr": [10.0], "epochs": 3}
        runs = [fit_made(s, tmp_path / f"{Path(s.path).stem}-{kind}", **settings).results for s in (whole, blank)]
        changed = runs[0]["val_top1"].ne(runs[1]["val_top1"]) | runs[0]["test_top1"].ne(runs[1]["test_top1"])
        for label in (runs[0]["head"] + ":" + runs[0]["head_config"])[changed]:
            reads.setdefault(label, set()).add(kind)
    assert reads == {
        "ep:queries=4": {"patch"},
        "ep:queries=4,tokens=patch+prefix": {"patch", "prefix"},
        "linear:pool=cls": {"prefix"},
        "linear:pool=mean": {"mean"},
        "linear:pool=max": {"patch"},
        "linear:pool=embedding": {"embedding"},
    }
