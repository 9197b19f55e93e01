"""The time of heads that are fitted at once: operations counted by hand, and a machine that is as fast as it is."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.planning import solver_time
from tokenprobe.probe.planning.solver_time import SIDE, operations_per_second, solver_seconds
from tokenprobe.probe.solvers.logreg import USUAL_ITERATIONS
from tokenprobe.probe.solvers.spectrum import EIGH_WORK
from tokenprobe.store import Store

from ..kit import plan_of, write_made

CPU = torch.device("cpu")
N, M, D, C = 80, 8 + 60, 8, 4
"""Training images, held-out and test images, width and classes of the made store."""


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def seconds_of(store: Store, head: str) -> float:
    plan = plan_of(store, heads=[head], layers="1")
    (group,) = plan.grid.solved_groups(LayerSet((1,)), plan.grid.regimes[0])
    return solver_seconds(plan, group, CPU)


def spectrum(f: int) -> int:
    return 2 * N * f * (f + C) + EIGH_WORK * f**3 + 2 * f * f * C


@pytest.mark.parametrize(
    ("head", "width", "operations"),
    [
        ("knn:k=5", D, lambda f: 3 * N * f + 2 * M * N * f),
        ("knn:k=5,pool=cls+mean", 2 * D, lambda f: 3 * N * f + 2 * M * N * f),
        ("ridge", D, lambda f: spectrum(f) + 10 * 2 * f * f * C + 10 * 2 * M * f * C),
        (
            "logreg",
            D,
            lambda f: (
                spectrum(f)
                + 2 * f * f * (N + 45 * C)
                + 45 * USUAL_ITERATIONS * 4 * N * (f + 1) * C
                + 45 * 2 * M * f * C
            ),
        ),
    ],
)
def test_the_time_is_that_of_the_operations(
    store: Store, monkeypatch: pytest.MonkeyPatch, head: str, width: int, operations: Callable[[int], int]
) -> None:
    monkeypatch.setattr(solver_time, "operations_per_second", lambda device, dtype: 1e6)
    assert seconds_of(store, head) == pytest.approx(operations(width) / 1e6, rel=1e-9)


def test_a_fit_in_double_precision_is_timed_in_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def speed(device: torch.device, dtype: torch.dtype) -> float:
        return 1e6 if dtype == torch.float64 else 1e18

    monkeypatch.setattr(solver_time, "operations_per_second", speed)
    assert seconds_of(store, "ridge") > 0.01 and seconds_of(store, "knn:k=5") < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_speed_is_about_that_of_a_product(dtype: torch.dtype) -> None:
    """To a factor of ten: others use this machine too."""
    matrix = torch.rand(SIDE, SIDE, dtype=dtype)
    start = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    measured = 3 * 2 * SIDE**3 / (time.perf_counter() - start)
    assert measured / 10 < operations_per_second(CPU, dtype) < measured * 10
