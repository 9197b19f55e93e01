"""The settings that a head does not read: fits that differ in them alone give the same results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.probe.planning.settings import OF_SOLVERS, OF_STEPS, shared_settings, unread_settings
from tokenprobe.store import Store

from ..kit import UNSTABLE, fit_made, plan_of, write_made

OTHER_STEPS: dict[str, Any] = {
    "epochs": 3, "batch_size": 8, "warmup_epochs": 1.5, "min_steps": 50, "clip_grad": 1.0, "class_weights": "balanced",
    "noise": 0.5, "noise_prob": 0.9, "amp": "bfloat16",
}  # fmt: skip
SOLVERS, STEPS = ["ridge", "logreg", "knn:k=3", "ncm"], ["linear"]


@pytest.mark.parametrize(
    ("heads", "changes"), [(SOLVERS, OTHER_STEPS), (STEPS, {"select_on": "held-out"})], ids=["solvers", "steps"]
)
def test_a_setting_that_a_head_does_not_read_changes_nothing(
    write_store: Callable[..., Store], tmp_path: Path, heads: list[str], changes: dict[str, Any]
) -> None:
    assert set(changes) == set(unread_settings(solved=heads is SOLVERS))
    store = write_made(write_store, tmp_path / "s.zarr")
    given = {"heads": heads, "layers": "1", "lr": [1.0], "shots": ["4", "full"], "epochs": 2}
    one, two = (
        fit_made(store, tmp_path / name, **given | more).results for name, more in (("one", {}), ("two", changes))
    )
    columns = [name for name in one if name not in UNSTABLE]
    assert one[columns].equals(two[columns])


def test_these_are_settings_that_all_cells_share(write_store: Callable[..., Store], tmp_path: Path) -> None:
    shared = shared_settings(plan_of(write_made(write_store, tmp_path / "s.zarr")))
    assert set(OF_STEPS) | set(OF_SOLVERS) <= shared.keys()
