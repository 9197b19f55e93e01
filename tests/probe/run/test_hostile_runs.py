"""Runs with damaged files: each is refused in one line, or gives the numbers that it had. Nothing else may come of it.

Damage is drawn by hypothesis, the same in every run.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenprobe.errors import TokenprobeError
from tokenprobe.probe import load_head, pipeline
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store
from tokenprobe.workflows.predict import only_cell

from ..kit import UNSTABLE, fit_made, write_made

DONE: dict[str, Any] = {"heads": ["linear", "ridge", "knn:k=3"], "layers": "0", "lr": [1.0], "epochs": 3}
BOTH = DONE | {"layers": "0,1"}
TOKENS = torch.arange(16.0).reshape(2, 1, 8)
N_DAMAGED = 100
TABLES = ["results.parquet", "history.parquet", "config.yaml"]


@dataclass(frozen=True)
class Finished:
    """A run of layer 0 that was stopped in layer 1, its numbers, and those of both layers."""

    store: Store
    run: Path
    results: pd.DataFrame
    history: pd.DataFrame
    logits: dict[str, torch.Tensor]
    both: pd.DataFrame


@pytest.fixture(scope="module")
def finished(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("hostile")
    store = write_made(write_store, folder / "s.zarr")
    run = fit_made(store, folder / "run", **DONE)
    logits = {cell: load_head(run.path, cell)(TOKENS) for cell in run.results["cell"] if "-knn-" not in cell}
    both = fit_made(store, folder / "both", **BOTH).results
    with pytest.MonkeyPatch.context() as patched:
        advance = FitProgress.advance

        def stop(self: FitProgress, *arguments: Any) -> None:
            advance(self, *arguments)
            if (run.path / "checkpoint.pt").exists():
                raise KeyboardInterrupt

        patched.setattr(Checkpoint, "due", lambda self: True)
        patched.setattr(FitProgress, "advance", stop)
        with suppress(KeyboardInterrupt):
            fit_made(store, folder / "run", **BOTH)
    assert (run.path / "checkpoint.pt").exists()
    kept = Run(run.path)
    return Finished(store, run.path, kept.results, kept.history, logits, stable(both))


def stable(results: pd.DataFrame) -> pd.DataFrame:
    return results.drop(columns=UNSTABLE).sort_values("cell").reset_index(drop=True)


def files_of(run: Path) -> list[str]:
    return sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())


places = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.tuples(st.just("flip"), st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=3)),
    st.tuples(st.just("cut"), places),
    st.tuples(st.just("replace"), st.one_of(st.binary(max_size=99), st.text(max_size=99).map(str.encode))),
    st.tuples(st.just("overwrite"), st.tuples(places, st.binary(min_size=1, max_size=40))),
    st.tuples(st.sampled_from(["remove", "folder", "loop", "another"]), places),
)


def changed(content: bytes, kind: str, how: Any) -> bytes:
    """Return a file's content with some bits flipped, cut, replaced, or with some bytes overwritten."""
    array = bytearray(content)
    if kind == "flip":
        for place, bit in how if content else []:
            array[int(place * len(array))] ^= 1 << bit
    elif kind == "overwrite":
        start = int(how[0] * len(array))
        array[start : start + len(how[1])] = how[1]
    return content[: int(how * len(content))] if kind == "cut" else how if kind == "replace" else bytes(array)


def damage(run: Path, name: str, kind: str, how: Any) -> None:
    """Damage one file of a run."""
    path, others = run / name, [other for other in files_of(run) if other != name]
    content = changed(path.read_bytes(), kind, how)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "another":
        shutil.copy(run / others[int(how * len(others))], path)
    elif kind != "remove":
        path.write_bytes(content)


@contextmanager
def damaged_copy(run: Path, name: str, kind: str, how: Any) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy)
        damage(copy, name, kind, how)
        yield copy


@settings(derandomize=True, deadline=None, max_examples=N_DAMAGED)
@given(data=st.data(), how=damages)
def test_a_damaged_run_is_refused_or_has_its_numbers(finished: Finished, data: st.DataObject, how: Any) -> None:
    name = data.draw(st.sampled_from(files_of(finished.run)))
    with damaged_copy(finished.run, name, *how) as copy:
        with suppress(TokenprobeError):
            assert Run(copy).results.equals(finished.results) or (name, how[0]) == ("results.parquet", "remove")
        with suppress(TokenprobeError):
            assert Run(copy).history.equals(finished.history) or (name, how[0]) == ("history.parquet", "remove")
        for cell, logits in finished.logits.items():
            with suppress(TokenprobeError):
                assert torch.equal(load_head(copy, cell)(TOKENS), logits)
        with suppress(TokenprobeError):
            only_cell(copy)


@settings(derandomize=True, deadline=None, max_examples=N_DAMAGED // 4)
@given(data=st.data(), how=damages)
def test_a_fit_in_a_damaged_run_is_refused_or_gives_the_same_numbers(
    finished: Finished, data: st.DataObject, how: Any
) -> None:
    name = data.draw(st.sampled_from([*TABLES, "checkpoint.pt", ".lock", "results.csv"]))
    with damaged_copy(finished.run, name, *how) as copy, pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "write_report", lambda run: None)  # figures take longer than all else
        with suppress(TokenprobeError):
            assert stable(fit_made(finished.store, copy, **BOTH).results).equals(finished.both)
            assert stable(Run(copy).results).equals(finished.both)
