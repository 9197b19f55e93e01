"""The whole of stage two: against a plain training loop, under both protocols, wherever tokens are kept."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from tokenprobe.errors import InputError
from tokenprobe.probe import load_head
from tokenprobe.probe.batches.subsets import hold_out
from tokenprobe.probe.planning.machine import Machine
from tokenprobe.runtime import progress
from tokenprobe.store import Store

from .heads.facts import SAVED
from .kit import LABELS, UNSTABLE, fit_made, plain_training, pooled_tokens, tokens_of, write_made


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("head", "kind", "cache"),
    [
        ("ep:queries=4", "patch", "ram"),
        ("ep:queries=4", "patch", "disk"),
        ("linear:pool=embedding", "embedding", "disk"),
    ],
)
def test_training_follows_a_plain_loop_of_one_head_at_a_time(
    store: Store, tmp_path: Path, head: str, kind: str, cache: str
) -> None:
    """Four cells stacked, 20 epochs in float64, each against its own loop."""
    torch.set_default_dtype(torch.float64)
    try:
        run = fit_made(
            store, tmp_path / "run", heads=[head], layers="1", lr=[1.0, 30.0], seeds=2, epochs=20,
            warmup_epochs=2.5, protocol="paper", cache=cache,
        )  # fmt: skip
        for row in run.results.itertuples():
            history = run.history[run.history["cell"] == row.cell].sort_values("epoch")
            expected = plain_training(row.lr, row.seed, epochs=20, warmup=2.5, batch_size=16, kind=kind)
            assert history["train_loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-8)
            assert history["test_top1"].tolist() == pytest.approx([top1 for _, top1 in expected], abs=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)
    losses = run.history.groupby("cell")["train_loss"]
    assert len(run.results) == 4 and (losses.last() < losses.first()).all()


def test_select_uses_nothing_of_the_test_split(store: Store, write_store: Callable[..., Store], tmp_path: Path) -> None:
    """With other test labels, all but the test columns stays as it is."""
    scrambled = LABELS | {"test": np.random.default_rng(5).permutation(LABELS["test"])}
    other = write_made(write_store, tmp_path / "scrambled.zarr", scrambled)
    one, two = fit_made(store, tmp_path / "one"), fit_made(other, tmp_path / "two")
    tested = [name for name in one.results if "test_top" in name or name == "test_mean_class"]
    assert len(tested) == 5
    assert not one.results["test_top1"].equals(two.results["test_top1"])
    for name in set(one.results) - {*tested, *UNSTABLE}:
        assert one.results[name].equals(two.results[name]), name
    for name in ("cell", "epoch", "train_loss", "val_top1"):
        assert one.history[name].equals(two.history[name]), name
    for cell in one.results["cell"]:
        states = [load_file(run.path / f"heads/{cell}.safetensors") for run in (one, two)]
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_held_out_images_are_scored_and_never_trained_on(
    store: Store, write_store: Callable[..., Store], tmp_path: Path
) -> None:
    held = hold_out(LABELS["train"], 0.2, 0, store["train"].classes)[1]
    blanked = write_made(write_store, tmp_path / "blanked.zarr", LABELS, blank=held)
    one, two = fit_made(store, tmp_path / "one", val=0.2), fit_made(blanked, tmp_path / "two", val=0.2)
    assert one.history.drop(columns="val_top1").equals(two.history.drop(columns="val_top1"))
    share = np.bincount(LABELS["train"][held]) / len(held)  # images that are all alike get one guess
    assert set(two.history["val_top1"].round(12)) <= set(share.round(12))
    split = store["train"]
    for row in one.results.itertuples():
        logits = load_head(one.path, row.cell)(pooled_tokens(store, "train", int(row.layer), row.tokens)[held])
        assert (logits.argmax(1).numpy() == split.labels[held]).mean() == row.val_top1


def test_under_select_the_reported_epoch_is_the_best_on_held_out_images(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", epochs=6, val=0.3)
    for row in run.results.itertuples():
        epochs = run.history[run.history["cell"] == row.cell].sort_values("epoch")
        val, test = epochs["val_top1"].tolist(), epochs["test_top1"].tolist()
        assert epochs["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
        assert row.best_epoch == 1 + val.index(max(val))
        assert (row.val_top1, row.test_top1) == (max(val), test[row.best_epoch - 1])
        assert (row.last_test_top1, row.peak_test_top1) == (test[-1], max(test))
    assert (run.results["test_top1"] < run.results["peak_test_top1"]).any()  # the protocols differ here
    for _, swept in run.results.groupby(["layer", "head", "head_config"]):
        assert swept.loc[swept["selected"], "cell"].tolist() == [swept.loc[swept["val_top1"].idxmax(), "cell"]]


@pytest.mark.usefixtures("messages")
def test_paper_trains_on_all_images_and_reports_the_peak(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit_made(store, tmp_path / "run", protocol="paper", lr=[])
    assert set(run.results["lr"]) == {0.1} and set(run.results["protocol"]) == {"paper"}
    assert run.results["val_top1"].isna().all() and run.history["val_top1"].isna().all()
    assert (run.results["test_top1"] == run.results["peak_test_top1"]).all()
    assert run.results["selected"].all()
    said = capsys.readouterr().err
    assert "6 cells to train on 2 layers\n88 training, 0 held-out and 60 test images" in said
    assert "protocol paper: the reported accuracy is the best epoch on the test split itself" in said
    for row in run.results.itertuples():
        test = run.history[run.history["cell"] == row.cell]["test_top1"].tolist()
        assert (row.peak_test_top1, row.best_epoch) == (max(test), 1 + test.index(max(test)))


def test_informative_tokens_are_learnt_and_a_diverged_cell_is_not_selected(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", epochs=30, lr=[30.0, 1e30], weight_decay=[0.1], layers="1", val=0.2)
    best = run.results[run.results["selected"]].set_index("head_config")
    assert set(best["lr"]) == {30.0}
    assert (best["test_top1"] > 0.25 + 4 * (0.25 * 0.75 / 60) ** 0.5).all()  # chance and four standard errors
    steady = fit_made(store, tmp_path / "steady", epochs=30, lr=[30.0, 3.0], weight_decay=[0.1], layers="1", val=0.2)
    calm = steady.results[steady.results["lr"] == 30].set_index("head_config")
    assert best["test_top1"].equals(calm["test_top1"]) and best["best_epoch"].equals(calm["best_epoch"])


@pytest.mark.usefixtures("messages")
def test_what_was_left_open_is_said_aloud(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit_made(store, tmp_path / "run", batch_size=None, heads=["linear"], epochs=3)
    said = capsys.readouterr().err
    assert "4 cells to train on 2 layers\n80 training, 8 held-out and 60 test images" in said
    assert "batch size 32, warm-up 0.333 of 3 epochs" in said
    assert set(run.results["batch_size"]) == {32}
    assert re.search(r"fit layer 1, epoch 3/3  4/4 cells  [\d,]+ images/s × 2 cells  best .* %.*  0 s left\n", said)


def test_a_fit_that_is_refused_writes_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fit_made(store, tmp_path / "run", heads=["linear"], layers="1")
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    monkeypatch.setattr(Machine, "free_bytes", lambda self: {"ram": 1})
    for folder in ("run", "none/new"):
        with pytest.raises(InputError, match=r"one cell of 'ep:queries=4' on layer 0 with .* takes"):
            fit_made(store, tmp_path / folder)
    assert not (tmp_path / "none").exists()
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_made(store, tmp_path / "run", heads=["linear"], epochs=3)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "fit layer 1, epoch 3/3 ━" in shown and "4/4 cells" in shown and "s left" not in shown


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize("shots", [["full"], ["4", "2"]])
@pytest.mark.parametrize("heads", [["knn:k=5"], ["knn:k=5", "ridge", "linear"]])
def test_every_cell_is_counted_and_epochs_are_those_asked_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    heads: list[str], shots: list[str],
) -> None:  # fmt: skip
    """Subsets pass over their rows many times an epoch, and solvers know no epochs."""
    monkeypatch.setattr(progress, "LEAST_PAUSE", -1.0)
    monkeypatch.setattr(progress, "PAUSE_SHARE", 0.0)
    run = fit_made(store, tmp_path / "run", heads=heads, shots=shots, epochs=3, min_steps=100, seeds=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fit ")]
    counts = [re.search(r"  (\d+)/(\d+) cells?(  |$)", line) for line in lines]
    assert all(counts), lines
    done = [int(count[1]) for count in counts if count]
    assert done == sorted(done) and done[-1] == len(run.results)
    assert {count[2] for count in counts if count} == {str(len(run.results))}
    epochs = [re.search(r", epoch (\d+)/(\d+) ", line) for line in lines]
    seen = [(int(epoch[1]), epoch[2]) for epoch in epochs if epoch]
    assert set(seen) == ({(1, "3"), (2, "3"), (3, "3")} if "linear" in heads else set())
    for solver in {head.partition(":")[0] for head in heads} - {"linear"}:
        assert any(f"fit layer 0, {solver} 100%  " in line for line in lines)


@pytest.mark.parametrize("head", [*SAVED, "ridge:pool=embedding", "logreg:pool=embedding"])
def test_saved_heads_give_the_reported_accuracies(store: Store, tmp_path: Path, head: str) -> None:
    layers = "1" if "embedding" in head else "all"
    run = fit_made(store, tmp_path / "run", heads=[head], layers=layers, lr=[3.0], seeds=2, epochs=5)
    labels = torch.from_numpy(LABELS["test"])
    for row in run.results.itertuples():
        logits = load_head(run.path, row.cell)(pooled_tokens(store, "test", int(row.layer), row.tokens))
        assert logits.shape == (60, 4)
        assert (logits.argmax(1) == labels).sum().item() / 60 == row.test_top1


def test_solvers_read_the_embedding_as_scikit_learn_does(store: Store, tmp_path: Path) -> None:
    heads = ["ridge:pool=embedding", "knn:k=5,pool=embedding"]
    results = fit_made(store, tmp_path / "run", heads=heads, layers="1", protocol="paper").results
    assert set(results["tokens"]) == {"embedding"}
    x, x_test = (tokens_of(split)[1]["embedding"].astype(np.float64) for split in LABELS)
    z, z_test = ((each - x.mean(0)) / np.sqrt(x.var(0) + 1e-6) for each in (x, x_test))
    of_ridge = results[results["head"] == "ridge"]
    assert set(of_ridge["n_params"]) == {4 * 5 + 4} and set(of_ridge["flops_forward"]) == {2 * 4 * 5}
    for row in of_ridge.itertuples():
        ridge = Ridge(alpha=len(z) * row.weight_decay).fit(z, np.eye(4)[LABELS["train"]])
        logits = load_head(tmp_path / "run", row.cell)(torch.from_numpy(x_test)[:, None].float())
        assert logits.detach().numpy() == pytest.approx(ridge.predict(z_test), abs=1e-4)
    votes = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = votes.fit(x, LABELS["train"]).score(x_test, LABELS["test"])
    assert results.loc[results["head"] == "knn", "test_top1"].item() == pytest.approx(expected, abs=1e-9)
