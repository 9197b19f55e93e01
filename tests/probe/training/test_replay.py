"""Replayed steps do what eager steps do: on a CPU from a tape bit for bit, on a GPU from a CUDA graph to rounding."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.heads import POOLINGS, blocked
from tokenprobe.probe.training import replay
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.probe.training.metrics import AccuracyCounter
from tokenprobe.probe.training.optim import OPTIMIZERS
from tokenprobe.probe.training.replay import REHEARSALS, Recorder, make_recorder

from .tape import TapeRecorder

SHAPE = TokenShape(grid=(4, 4), dim=16, n_prefix=2)
LRS = {"lars": (0.1, 3.0, 30.0), "sgd": (0.01, 0.1, 0.3), "adamw": (0.001, 0.01, 0.03)}
N_CLASSES, BATCH, N_STEPS = 5, 24, REHEARSALS + 5
SMALL = {"ep": "ep:queries=4", "coca": "coca:queries=3,heads=2"}
HEADS = [SMALL.get(name, name if name in ("abmilp", "cbam", "dolg", "linear", "simpool") else f"{name}:heads=4")
         for name in POOLINGS]  # fmt: skip
GPU = pytest.param(
    "cuda:0",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
on_both = pytest.mark.parametrize("device", ["cpu", GPU])


def recorder_for(device: str) -> Recorder:
    recorder = TapeRecorder() if device == "cpu" else make_recorder(torch.device(device))
    assert recorder is not None
    return recorder


def make_cells(head: str, optimizer: str, **changes: Any) -> list[Cell]:
    """Three cells of different rates, decays and seeds; `changes` are of the second."""
    spec = parse_heads([head])[0]
    cells = [
        Cell("made", LayerSet((0,)), spec, optimizer, lr, decay, "full", seed)
        for seed, (lr, decay) in enumerate(zip(LRS[optimizer], (0.0, 0.05, 0.01), strict=True))
    ]
    cells[1] = replace(cells[1], **changes)
    return cells


def make_groups(
    cells: Sequence[Cell], device: str, recorder: Recorder, precision: str = "float64", **changes: Any
) -> tuple[Group, Group]:
    """Return a group that makes every step eagerly, and one that replays."""
    setup = GroupSetup(SHAPE, N_CLASSES, BATCH, torch.device(device), precision, **changes)
    return Group(cells, setup), Group(cells, setup, recorder)


def make_batch(number: int, device: str, n_images: int = BATCH) -> TokenBatch:
    draw = torch.Generator().manual_seed(number)
    labels = torch.randint(0, N_CLASSES, (n_images,), generator=draw)
    patch = torch.randn(n_images, 16, 16, generator=draw)
    patch[:, :9] += torch.nn.functional.one_hot(labels, 16)[:, None]
    prefix = (patch[:, :2] * 2).half()
    arrays = {"patch": patch.half(), "prefix": prefix, "cls": prefix[:, :1], "mean": patch.mean(1)}
    return TokenBatch({kind: array.to(device) for kind, array in arrays.items()}, labels.to(device))


def train(groups: Sequence[Group], device: str, steps: Sequence[int] = range(N_STEPS)) -> None:
    """Give all groups the same batches, in turn, under a changing rate."""
    for step in steps:
        batch = make_batch(step, device)
        for group in groups:
            group.train_batch(batch, 0.5 + step / N_STEPS)


def assert_equal(eager: Group, replayed: Group, tolerance: float = 1e-9) -> None:
    """On a CPU bit for bit; on a GPU products may be summed in another order."""
    expected, found = eager.state(), replayed.state()
    assert expected.keys() == found.keys()
    for name in expected.keys() - {"seconds", "cpu_seconds"}:
        if eager.device.type == "cpu":
            assert torch.equal(expected[name], found[name]), name
        else:
            torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


@on_both
@pytest.mark.parametrize(
    ("head", "optimizer"), [*product(["ep:queries=4", "linear", "aim:heads=4", "dolg"], OPTIMIZERS)]
)
def test_replayed_steps_leave_what_eager_steps_leave(head: str, optimizer: str, device: str) -> None:
    recorder = recorder_for(device)
    eager, replayed = make_groups(make_cells(head, optimizer), device, recorder)
    start = {name: value.clone() for name, value in eager.head.state_dict().items()}
    train([eager, replayed], device)
    assert_equal(eager, replayed)
    assert not torch.equal(eager.head.weight, start["weight"])
    assert replayed.seconds > 0
    if isinstance(recorder, TapeRecorder):
        assert (recorder.n_recorded, recorder.n_replayed) == (1, N_STEPS - REHEARSALS)


@on_both
@pytest.mark.parametrize("head", HEADS)
def test_a_step_of_every_head_can_be_recorded(head: str, device: str, caplog: pytest.LogCaptureFixture) -> None:
    """No head reads a number from the device."""
    recorder = recorder_for(device)
    eager, replayed = make_groups(make_cells(head, "sgd"), device, recorder)
    train([eager, replayed], device)
    assert_equal(eager, replayed)
    assert caplog.messages == []


@on_both
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("head", ["ep:queries=4", "linear:pool=cls+mean", "cait:tokens=patch+prefix"])
def test_every_precision_is_replayed(head: str, precision: str, device: str) -> None:
    eager, replayed = make_groups(make_cells(head, "sgd"), device, recorder_for(device), precision)
    train([eager, replayed], device)
    assert_equal(eager, replayed, tolerance=1e-4 if precision == "float32" else 0.02)


@on_both
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_diverged_cell_is_retired_in_replayed_steps_too(optimizer: str, device: str) -> None:
    recorder = recorder_for(device)
    groups = make_groups(make_cells("ep:queries=4", optimizer, lr=1e30), device, recorder)
    train(groups, device)
    assert [group.retire() for group in groups] == [[True, False, True]] * 2
    train(groups, device)
    assert [group.retire() for group in groups] == [[True, False, True]] * 2
    for group in groups:
        group.take_losses()
        assert all((parameter[1] == 0).all() for parameter in group.head.parameters())
    assert_equal(*groups)
    if isinstance(recorder, TapeRecorder):
        assert (recorder.n_recorded, recorder.n_replayed) == (2, 2 * N_STEPS - REHEARSALS)


@on_both
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replaying_goes_on_from_a_kept_state(optimizer: str, device: str) -> None:
    """Both a fresh group and one with a recording of its own."""
    recorder = recorder_for(device)
    cells = make_cells("ep:queries=4", optimizer, lr=1e30)
    (eager, stopped), (_, fresh) = (make_groups(cells, device, recorder) for _ in range(2))
    train([eager, stopped], device)
    for group in (eager, stopped):
        group.retire()
    kept = {name: value.clone() for name, value in stopped.state().items()}
    train([stopped], device, range(4))
    train([eager], device)
    for group in (fresh, stopped):
        group.load_state(kept)
        train([group], device)
    for group in (eager, stopped, fresh):
        assert group.retire() == [True, False, True]
        group.take_losses()
    assert_equal(eager, stopped)
    assert_equal(eager, fresh)


@on_both
def test_groups_of_different_heads_share_batches(device: str) -> None:
    """Two that read the same tokens, one that reads more, one that reads the means; scoring comes between."""
    recorder = recorder_for(device)
    heads = ["ep:queries=4", "aim:heads=4", "simpool:tokens=patch+prefix", "linear", "dolg"]
    pairs = [make_groups(make_cells(head, "adamw"), device, recorder) for head in heads]
    for _ in range(2):
        train([group for pair in pairs for group in pair], device)
        for group in (group for pair in pairs for group in pair):
            group.count_batch(AccuracyCounter(N_CLASSES), make_batch(99, device, 50))
    for eager, replayed in pairs:
        assert_equal(eager, replayed)


@on_both
def test_batches_of_another_size_are_not_replayed(device: str) -> None:
    recorder = recorder_for(device)
    groups = make_groups(make_cells("ep:queries=4", "lars"), device, recorder)
    train(groups, device)
    for n_images in (BATCH - 5, BATCH + 7, BATCH):
        for group in groups:
            group.train_batch(make_batch(n_images, device, n_images), 1.0)
    assert_equal(*groups)
    if isinstance(recorder, TapeRecorder):
        assert (recorder.n_recorded, recorder.n_replayed) == (1, N_STEPS - REHEARSALS + 1)


@on_both
def test_a_group_with_larger_batches_moves_the_batches_of_the_others(device: str) -> None:
    recorder = recorder_for(device)
    small, large = (make_groups(make_cells("ep:queries=4", "sgd"), device, recorder) for _ in range(2))
    for step in range(2 * N_STEPS):
        for group in small:
            group.train_batch(make_batch(step, device), 1.0)
        if step >= N_STEPS:
            for group in large:
                group.train_batch(make_batch(step, device, 2 * BATCH), 1.0)
    assert_equal(*small)
    assert_equal(*large)
    if isinstance(recorder, TapeRecorder):
        assert recorder.n_recorded == 3


@on_both
def test_maps_that_are_made_again_are_replayed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "MAPS_BYTES", 2 * 4 * BATCH * 16)
    groups = make_groups(make_cells("ep:queries=4", "sgd"), device, recorder_for(device))
    train(groups, device)
    assert_equal(*groups)


@on_both
@pytest.mark.parametrize("where", ["forward", "after the backward pass"])
def test_steps_that_cannot_be_recorded_are_made_all_the_same(
    where: str, device: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And said once, for all groups that fail alike; groups after them are recorded."""
    replay._say_once.cache_clear()
    owner, name = (POOLINGS["ep"], "pool") if where == "forward" else (Group, "_finish_gradients")
    plain = getattr(owner, name)

    def reading(self: Any, *arguments: Any) -> Any:
        next(iter(self.parameters() if where == "forward" else self.head.parameters())).sum().item()
        return plain(self, *arguments)

    recorder = recorder_for(device)
    recorded = make_groups(make_cells("aim:heads=4", "adamw"), device, recorder)
    train(recorded, device)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, reading)
        pairs = [make_groups(make_cells("ep:queries=4", "adamw"), device, recorder) for _ in range(2)]
        train([group for pair in pairs for group in pair], device)
    (line,) = caplog.messages
    assert line.startswith("steps are launched one kernel at a time, since recording them failed: ")
    caplog.clear()
    torch.randn(1, device=device)  # torch would believe that it is still recorded
    pairs += [recorded, make_groups(make_cells("ep:queries=4", "adamw"), device, recorder)]
    train([group for pair in pairs for group in pair], device)
    for pair in pairs:
        assert_equal(*pair)
    assert caplog.messages == []


class RefusingRecorder(Recorder):
    n_asked = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.n_asked += 1
        try:
            raise ValueError("cannot\nat all")
        except ValueError:
            raise RuntimeError("so it failed") from None


def test_a_recording_that_failed_is_not_tried_again_and_its_first_reason_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replay._say_once.cache_clear()
    recorder = RefusingRecorder()
    groups = make_groups(make_cells("linear", "sgd"), "cpu", recorder)
    train(groups, "cpu")
    assert_equal(*groups)
    assert recorder.n_asked == 1
    assert caplog.messages == [
        "steps are launched one kernel at a time, since recording them failed: ValueError: cannot"
    ]


class FullRecorder(Recorder):
    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise RuntimeError("the capture is invalid") from None


def test_a_recording_for_which_memory_runs_out_is_an_error() -> None:
    """A pass of fewer cells may fit; launching kernel by kernel takes as much."""
    groups = make_groups(make_cells("linear", "sgd"), "cpu", FullRecorder())
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        train(groups, "cpu")


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert make_recorder(torch.device("cpu")) is None
