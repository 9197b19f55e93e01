"""`config.yaml` of a run with results: read as it was written, and refused where it is missing or damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tokenprobe.errors import RunError
from tokenprobe.probe.run.origin import KnownStore, Origin, read_origin, write_origin
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import fit_made, write_made

SHARED = {"epochs": 90, "val": 0.1, "amp": "off", "val_split": None}
ORIGIN = Origin([{"heads": ["ep"], "lr": SHARED}], {"vit": KnownStore("s.zarr", {"train": "0"})}, {"full": 8}, SHARED)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a cell of the store "vit"."""
    run = Run(tmp_path)
    run.results = pd.DataFrame({"cell": ["vit-layer_00-ep"]})
    write_origin(tmp_path, {"lr": [0.1], "epochs": 90}, ORIGIN)
    return run


def test_what_was_written_comes_back(run: Run) -> None:
    assert read_origin(run) == ORIGIN
    text = (run.path / "config.yaml").read_text()
    assert text.startswith("lr:\n- 0.1\nepochs: 90\nmade_from:\n") and "&" not in text  # no references
    run.results = pd.DataFrame()
    assert read_origin(run) is None


def test_results_without_their_settings_are_refused(run: Run) -> None:
    (run.path / "config.yaml").unlink()
    with pytest.raises(RunError, match=r"run '.*' has results but no config.yaml, so their settings are unknown"):
        read_origin(run)


def change(run: Run, changes: dict[str, Any]) -> None:
    path = run.path / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["made_from"] |= changes
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commands": None}, "made_from.commands is None; expected a list"),
        ({"commands": ["ep"]}, r"made_from.commands\[0\] is 'ep'; expected keys and values"),
        ({"stores": {}}, "it lacks the store 'vit'"),
        ({"stores": {"vit": "s.zarr"}}, "made_from.stores.vit is 's.zarr'; expected keys and values"),
        ({"stores": {"vit": {"path": "s.zarr"}}}, "made_from.stores.vit.fingerprints is missing"),
        ({"stores": {"vit": {"path": 1, "fingerprints": {}}}}, "made_from.stores.vit.path is 1; expected text"),
        ({"batch_sizes": {"full": "8"}}, "made_from.batch_sizes.full is '8'; expected a whole number"),
        ({"shared": {}}, "it lacks the settings"),
        ({"shared": {"epochs": float("nan")}}, "made_from.shared.epochs is nan; expected a number"),
        ({"more": 1}, "made_from.more is not known here"),
    ],
)
def test_what_is_of_another_kind_is_refused(run: Run, changes: dict[str, Any], reason: str) -> None:
    change(run, changes)
    with pytest.raises(RunError, match=rf"'.*config.yaml' is damaged, or was written by another version .*\({reason}"):
        read_origin(run)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(c)}: &{chr(c)} [{','.join([f'*{chr(c - 1)}'] * 9)}]\n" for c in range(ord("b"), ord("k"))
)


@pytest.mark.parametrize("content", [b"", b"epochs: 3\n", b"- made_from\n", b"text"])
def test_a_file_that_does_not_tell_what_made_the_run_is_refused(run: Run, content: bytes) -> None:
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match=r"config.yaml' is damaged, .* \(it has no key made_from\)"):
        read_origin(run)


@pytest.mark.parametrize(
    "content",
    [
        b"made_from: 3\n",
        b"\xff\xfe\x00",
        b"made_from: {a: 2024-99-99}\n",
        b"? [a, b]\n: c\n",
        b"[" * 100_000,
        BOMB.encode() + b"made_from: {commands: *j}\n",
        b"made_from: !!python/object/apply:os.system [echo]\n",
    ],
    ids=range(7),
)
def test_what_is_no_such_file_is_refused(run: Run, content: bytes) -> None:
    (run.path / "config.yaml").write_bytes(content)
    with pytest.raises(
        RunError, match=r"'.*config.yaml' is damaged, or was written by another version of tokenprobe \("
    ):
        read_origin(run)


def test_a_fit_is_refused_in_a_run_that_does_not_tell_its_settings(
    write_store: Callable[..., Store], tmp_path: Path
) -> None:
    """Other settings would stand beside the cells that are there."""
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", heads=["linear"], layers="0")
    (run.path / "config.yaml").unlink()
    for changes in ({}, {"epochs": 5}, {"dry_run": True}):
        with pytest.raises(RunError, match=r"has results but no config\.yaml"):
            fit_made(store, tmp_path / "run", heads=["linear"], layers="0", **changes)
    assert not (run.path / "config.yaml").exists()
