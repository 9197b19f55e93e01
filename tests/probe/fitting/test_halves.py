"""Memory that runs out in the middle of a fit, by a pooling that takes no more cells than it is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.probe.fitting.halves import halve, part_of
from tokenprobe.probe.grid.cells import CellGroup
from tokenprobe.probe.heads import POOLINGS
from tokenprobe.probe.heads.ep import EfficientProbing
from tokenprobe.probe.planning.layer_plan import USABLE, memory_of
from tokenprobe.probe.planning.machine import Machine
from tokenprobe.probe.planning.shadow import Shadow
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import assert_same, fit_made, plan_of, write_made

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"heads": ["hungry:queries=4"], "lr": [0.3, 1.0, 3.0, 10.0], "layers": "1"}
STEPS = 5
"""Steps of an epoch: 80 training images, 16 in a batch."""


class Hungry(EfficientProbing):
    """EP for which memory runs out beyond `MOST` cells, once `AFTER` training steps were made.

    Attributes:
        made: cells of every training step.
    """

    name = "hungry"
    MOST: ClassVar[int] = 99
    AFTER: ClassVar[int] = 0
    made: ClassVar[list[int]] = []

    def pool(self, x_BND: Tensor) -> Tensor:
        real = not isinstance(x_BND, Shadow) and x_BND.device.type == "cpu"
        if real and self.training and self.cells is not None:
            if self.cells > self.MOST and len(self.made) >= self.AFTER:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            self.made.append(self.cells)
        return super().pool(x_BND)


@pytest.fixture(autouse=True)
def hungry(monkeypatch: pytest.MonkeyPatch) -> type[Hungry]:
    monkeypatch.setitem(POOLINGS, "hungry", Hungry)
    for name, value in {"MOST": 99, "AFTER": 0, "made": []}.items():
        monkeypatch.setattr(Hungry, name, value)
    return Hungry


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def planned_in_halves(store: Store, out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """Fit with so little memory that the plan has passes of two cells."""
    plan = plan_of(store, **SETTINGS, epochs=4, batch_size=16)
    regime, cells = plan.grid.trained_groups(LayerSet((1,)), plan.grid.regimes[0])[0]
    memories = [memory_of(plan, CPU, CellGroup(regime, some)) for some in (cells[:2], cells[:3])]
    room = sum(memory.kept + memory.working for memory in memories) // 2
    with monkeypatch.context() as patched:
        patched.setattr(Machine, "free_bytes", lambda self: {"ram": int(room / USABLE) + 1})
        return fit_made(store, out, **SETTINGS, cache="disk", **changes)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_pass_that_does_not_fit_gives_what_smaller_passes_give(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: str
) -> None:
    expected = planned_in_halves(store, tmp_path / "planned", monkeypatch)
    assert Hungry.made == [2] * (2 * 4 * STEPS)
    monkeypatch.setattr(Hungry, "MOST", 2)
    caplog.set_level("WARNING", "tokenprobe")
    found = fit_made(store, tmp_path / "split", **SETTINGS, cache=cache)
    assert_same(expected, found)
    line = "cpu ran out of memory with 4 cells in a pass: two passes with half of the cells each start again"
    assert caplog.messages == [line]
    assert not (tmp_path / "split" / "checkpoint.pt").exists()


def test_halves_that_do_not_fit_are_halved_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = [fit_made(store, tmp_path / str(lr), **SETTINGS | {"lr": [lr]}) for lr in SETTINGS["lr"]]
    monkeypatch.setattr(Hungry, "MOST", 1)
    caplog.set_level("WARNING", "tokenprobe")
    found = fit_made(store, tmp_path / "split", **SETTINGS)
    losses = found.history.sort_values(["cell", "epoch"]).groupby("cell")["train_loss"].agg(list)
    for run in alone:
        for cell, expected in run.history.sort_values("epoch").groupby("cell")["train_loss"].agg(list).items():
            assert losses[cell] == expected
    assert [message.split(" in a pass")[0][-7:] for message in caplog.messages] == ["4 cells", "2 cells", "2 cells"]


def test_halves_go_on_from_the_last_scoring(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory runs out in the third epoch, of which two steps are lost. The whole pass rounds as it always did."""
    expected = fit_made(store, tmp_path / "whole", **SETTINGS)
    Hungry.made.clear()
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(Hungry, "MOST", 2)
    monkeypatch.setattr(Hungry, "AFTER", 2 * STEPS + 2)
    caplog.set_level("WARNING", "tokenprobe")
    found = fit_made(store, tmp_path / "split", **SETTINGS)
    assert Hungry.made == [4] * (2 * STEPS + 2) + [2] * (2 * 2 * STEPS)
    assert caplog.messages[0].endswith("two passes with half of the cells each go on after 2 scorings")
    key = ["cell", "epoch"]
    one, two = (run.history.sort_values(key).reset_index(drop=True) for run in (expected, found))
    assert one[key].equals(two[key])
    assert one["train_loss"].to_numpy() == pytest.approx(two["train_loss"].to_numpy(), rel=1e-4)
    assert (found.results["train_seconds"] > 0).all()


def test_one_cell_that_does_not_fit_is_an_error_with_advice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Hungry, "MOST", 0)
    flags = ["--head", "hungry:queries=4", "--lr", "1,3", "--layers", "1", "--epochs", "2", "--device", "cpu"]
    assert main(["fit", str(store.path), "-o", str(tmp_path / "run"), *flags, "--batch-size", "16", "--quiet"]) == 2
    split, error = capsys.readouterr().err.splitlines()
    assert "cpu ran out of memory with 2 cells in a pass" in split
    assert error == (
        "probe fit: cpu ran out of memory with one cell of 'hungry:queries=4' on layer 1 and 16 images in a batch: "
        "give a smaller --batch-size, --amp bfloat16, a head or a layer with fewer tokens, --cache disk, or another "
        "--device"
    )


def test_a_pass_is_halved_by_cells_and_then_by_groups(store: Store) -> None:
    plan = plan_of(store, heads=["ep:queries=4", "linear"], lr=[0.3, 1.0, 3.0], seeds=1, layers="1")
    groups = plan.grid.trained_groups(LayerSet((1,)), plan.grid.regimes[0])
    first, second = halve(plan, groups, CPU)
    names = [[[cell.lr for cell in group.cells] for group in half] for half in (first, second)]
    assert names == [[[0.3, 1.0]] * 2, [[3.0]] * 2]
    assert halve(plan, second, CPU) == [second[:1], second[1:]]
    assert halve(plan, [first[0], second[1]], CPU)[0] == [CellGroup(first[0].regime, first[0].cells[:1])]
    with pytest.raises(
        InputError, match=r"cpu ran out of memory with one cell of 'ep:queries=4' on layer 1 and \d+ im"
    ):
        halve(plan, second[:1], CPU)
    bfloat16 = plan_of(store, amp="bfloat16")
    with pytest.raises(InputError, match="smaller --batch-size, a head"):
        halve(bfloat16, second[:1], CPU)


def test_a_part_of_no_state_is_none(store: Store) -> None:
    assert part_of(None, [], []) is None
