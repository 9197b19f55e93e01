"""The dry run: what it says against what a fit does."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.probe import FitConfig
from tokenprobe.probe.estimate import describe, estimate
from tokenprobe.probe.plan import make_plan
from tokenprobe.probe.results import Run
from tokenprobe.probe.work import Work, make_work
from tokenprobe.store import Store, extents

from .kit import fit_made, write_made

ROW = 6 * 8 * 2
"""Bytes of the patch tokens of one image and layer."""
SETTINGS: dict[str, Any] = {"heads": ["ep:queries=4"], "lr": [1.0], "layers": "1", "seeds": 2, "epochs": 3}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def works(store: Store, out: Path, **changes: Any) -> list[Work]:
    given = SETTINGS | {"batch_size": 16, "device": "cpu", "out": out} | changes
    run = Run(out)
    (plan,) = run.named([make_plan(store, FitConfig(**given))])
    return [make_work(plan, layers, run) for layers in plan.layers]


@pytest.mark.parametrize("shots", [["full"], ["4", "2"], ["full", "4", "2"]])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_as_many_bytes_are_read_as_were_announced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, shots: list[str]
) -> None:
    (work,) = works(store, tmp_path / "run", cache=cache, shots=shots)
    announced = estimate(work, {})
    with counted_bytes(monkeypatch) as read:
        fit_made(store, tmp_path / "run", cache=cache, shots=shots, **SETTINGS)
    assert sum(read) == announced.read > 0
    assert announced.kept == (announced.read if cache == "ram" else 0)
    most = max(32, *(len(course.train_rows) for course in work.courses)) if cache == "disk" else 0
    assert announced.windows == min(32, most) * ROW  # eight blocks of four


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("heads", [["linear", "knn:k=5"], ["linear", "ep:queries=4"]])
def test_means_of_normed_tokens_are_announced_as_the_tokens_that_they_are_made_of(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, heads: list[str]
) -> None:
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": None, "bias": None}
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=norm)
    settings = SETTINGS | {"heads": heads, "norm": "final", "cache": cache, "shots": ["full", "4"]}
    (work,) = works(store, tmp_path / "run", **settings)
    announced = estimate(work, {})
    with counted_bytes(monkeypatch) as read:
        fit_made(store, tmp_path / "run", **settings)
    assert sum(read) == announced.read > 0
    in_memory = cache == "ram" and "ep:queries=4" in heads
    n_rows = sum(map(len, work.plan.rows(work.courses).values()))
    if cache == "ram":
        n_rows = 88 + 60  # subsets are rows of what is kept already
    assert announced.kept == n_rows * 8 * 4 + (n_rows * ROW if in_memory else 0)
    assert announced.windows == (0 if in_memory else 32 * ROW)


@contextmanager
def counted_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Give the bytes of every read meanwhile."""
    read, preadv = list[int](), os.preadv

    def counted(*arguments: Any) -> int:
        n_bytes = preadv(*arguments)
        read.append(n_bytes)
        return n_bytes

    with monkeypatch.context() as patched:
        patched.setattr(extents.os, "preadv", counted)
        yield read


def test_the_dry_run_says_what_would_be_done_and_does_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit_made(store, tmp_path / "run", dry_run=True, shots=["full", "4"], layers="all,0+1", seeds=2)
    said = capsys.readouterr().out
    assert run.results.empty and not (tmp_path / "run").exists()
    assert f"{store.path}: timm:none on made, as none" in said
    assert "  80 training, 8 held-out and 60 test images" in said
    assert "  shots 4, 2 seeds: 16 training, 8 held-out and 60 test images" in said
    cells = 3 * 2 * 2 * 2  # heads, shots, rates, seeds
    for layer in ("0", "1", "0+1"):
        assert f"none, layer {layer}: {cells} cells in 9 groups and 1 passes; reads " in said
    total = re.search(r"in all (\d+) cells: .* to read, .* of memory at most, \d+ s of training and scoring", said)
    assert total is not None and int(total[1]) == 3 * cells


@pytest.mark.parametrize(("pool", "width"), [("mean", 8), ("embedding", 5)])
def test_pooled_vectors_are_announced_and_solvers_are_said_not_to_be_timed(
    store: Store, tmp_path: Path, pool: str, width: int
) -> None:
    (work,) = works(store, tmp_path / "run", heads=[f"linear:pool={pool}", f"ridge:pool={pool}"])
    found = estimate(work, {})
    assert found.read == found.kept == (88 + 60) * width * 4
    assert describe([work])[-1] == "the time of knn, ridge and logreg is not in it"


def test_what_a_run_has_already_is_not_announced(store: Store, tmp_path: Path) -> None:
    fit_made(store, tmp_path / "run", **SETTINGS)
    assert describe(works(store, tmp_path / "run"))[-1].startswith("in all 0 cells: 0 B to read")


def test_training_bytes_are_those_of_all_groups_and_the_largest_step(store: Store, tmp_path: Path) -> None:
    """Twice the cells keep twice as much; parameters alone are a part of that."""
    (one,) = works(store, tmp_path / "run", seeds=1)
    (two,) = works(store, tmp_path / "run", seeds=2)
    few, more = (estimate(work, {}).training for work in (one, two))
    n_parameters = 4 * 8 + 8 * 8 + 4 * 8 + 4
    assert few > 3 * 4 * n_parameters and few < more < 2 * few
