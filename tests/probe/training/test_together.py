"""Cells trained together equal the same cells trained alone, and both equal a plain loop.

A gradient clip over the whole group, or a loss scale that adapts to all of its cells, would break every test here that
has a diverging cell: its infinite gradient would stop or shrink the steps of its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.probe.training.optim import OPTIMIZERS
from tokenprobe.probe.training.schedule import lr_factor

from ..heads.facts import KNOWN, TRAINED

SHAPE, N_CLASSES, BATCH = TokenShape(grid=(2, 3), dim=12, n_prefix=2), 5, 16
LRS = {"lars": (0.1, 3.0, 30.0), "sgd": (0.01, 0.1, 0.3), "adamw": (0.001, 0.01, 0.03)}
DIVERGING = 7
"""Which of the twelve cells gets an absurd learning rate."""

HEADS = ["ep:queries=3", "aim:heads=4", "linear:pool=mean", "dolg"]
"""Those of `TRAINED` that are trained by every optimizer, in float32 too."""
OTHER_HEADS = [head for head in TRAINED if head not in (*HEADS, "cait")]


def make_cells(head: str, optimizer: str) -> list[Cell]:
    """Twelve cells: three learning rates, two weight decays, two seeds; one diverges."""
    spec = parse_heads([head])[0]
    cells = [
        Cell("made", LayerSet((0,)), spec, optimizer, lr, decay, "full", seed)
        for lr, decay, seed in product(LRS[optimizer], (0.0, 0.05), (0, 1))
    ]
    cells[DIVERGING] = replace(cells[DIVERGING], lr=1e30)
    return cells


def make_group(cells: Sequence[Cell], precision: str) -> Group:
    return Group(cells, GroupSetup(SHAPE, N_CLASSES, batch_size=BATCH, device=torch.device("cpu"), precision=precision))


def make_batch(number: int) -> TokenBatch:
    """Class marks on most tokens under noise; the prefix tokens and the mean follow the patch tokens."""
    draw = torch.Generator().manual_seed(number)
    labels = torch.randint(0, N_CLASSES, (BATCH,), generator=draw)
    patch = torch.randn(BATCH, 6, 12, generator=draw)
    patch[:, :5] += nn.functional.one_hot(labels, 12)[:, None]
    return TokenBatch({"patch": patch, "prefix": patch[:, :2] * 2, "mean": patch.mean(1)}, labels)


BATCHES = [make_batch(number) for number in range(20)]


def train(group: Group) -> Tensor:
    """Make twenty steps under a changing rate; return the losses, (20, H)."""
    losses = []
    for number, batch in enumerate(BATCHES):
        group.train_batch(batch, 0.5 + number / len(BATCHES))
        losses.append(group.take_losses())
    return torch.tensor(losses, dtype=torch.float64)


def check_together_equals_alone(head: str, optimizer: str, precision: str, tolerance: float) -> None:
    cells = make_cells(head, optimizer)
    together = make_group(cells, precision)
    losses, state = train(together), together.head.state_dict()
    assert not losses[-1, DIVERGING].isfinite()
    for index in set(range(len(cells))) - {DIVERGING}:
        alone = make_group([cells[index]], precision)
        expected = train(alone)[:, 0]
        assert expected.isfinite().all()
        torch.testing.assert_close(losses[:, index], expected, rtol=tolerance, atol=tolerance)
        for name in state.keys() - KNOWN[cells[0].head.name].unstable:
            value = alone.head.state_dict()[name][0]
            torch.testing.assert_close(state[name][index], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    ("head", "optimizer"), [*product([*HEADS, "cait"], OPTIMIZERS), *((head, "lars") for head in OTHER_HEADS)]
)
def test_twelve_cells_in_float64_equal_each_alone_whatever_a_neighbour_does(head: str, optimizer: str) -> None:
    check_together_equals_alone(head, optimizer, "float64", 1e-8)


@pytest.mark.parametrize(("head", "optimizer"), list(product(HEADS, OPTIMIZERS)))
def test_the_first_twenty_steps_in_float32_equal_each_alone_whatever_a_neighbour_does(
    head: str, optimizer: str
) -> None:
    """Not cait: its vectors first differ between images in the fifth digit; BatchNorm magnifies what float32 rounds."""
    check_together_equals_alone(head, optimizer, "float32", 1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("head", "optimizer"), list(product(["ep:queries=3", "linear:pool=mean"], OPTIMIZERS)))
def test_a_diverging_cell_costs_its_neighbours_not_a_bit(head: str, optimizer: str, precision: str) -> None:
    """Nor a step: a loss scale that all cells share would skip one for each overflow."""
    upset = make_cells(head, optimizer)
    calm = list(upset)
    calm[DIVERGING] = replace(upset[DIVERGING], lr=0.01)
    groups = [make_group(cells, precision) for cells in (calm, upset)]
    expected, found = (train(group) for group in groups)
    assert expected.isfinite().all() and not found[-1, DIVERGING].isfinite()
    others = [index for index in range(len(calm)) if index != DIVERGING]
    assert torch.equal(expected[:, others], found[:, others])
    for name, value in groups[0].head.state_dict().items():
        assert torch.equal(value[others], groups[1].head.state_dict()[name][others]), name


class PlainProbe(nn.Module):
    """EP in the published order, every token projected, then BatchNorm and a classifier: torch's modules, one cell."""

    def __init__(self, n_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(n_queries, 12))
        self.value = nn.Linear(12, 12, bias=False)
        self.norm = nn.BatchNorm1d(12, affine=False, eps=1e-6)
        self.classifier = nn.Linear(12, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        values = self.value(x)  # (B, N, D)
        maps = torch.softmax(self.queries @ x.transpose(1, 2) / 12**0.5, dim=-1)  # (B, Q, N)
        blocks = [maps[:, q, None] @ part for q, part in enumerate(values.chunk(len(self.queries), dim=2))]
        return self.classifier(self.norm(torch.cat(blocks, dim=2)[:, 0]))


class PlainLARS(torch.optim.Optimizer):
    """LARS by the book, for one cell."""

    def __init__(self, parameters: Any, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                direction = p.grad
                if p.ndim > 1:
                    direction = direction + group["weight_decay"] * p
                    direction = direction * (0.001 * p.norm() / direction.norm())
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(0.9).add_(direction)
                p.sub_(group["lr"] * momentum)


PLAIN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "lars": PlainLARS,
    "sgd": lambda parameters, **settings: torch.optim.SGD(parameters, momentum=0.9, **settings),
    "adamw": torch.optim.AdamW,
}
EPOCHS, WARMUP, STEPS = 20, 3, 4
"""Twenty epochs of four batches."""


def plain_loop(cell: Cell, probe: PlainProbe) -> list[float]:
    """Return the mean training loss of each epoch."""

    def factor(step: int) -> float:
        epoch = step / STEPS
        return epoch / WARMUP if epoch < WARMUP else 0.5 + 0.5 * cos(pi * (epoch - WARMUP) / (EPOCHS - WARMUP))

    assert cell.lr is not None
    peak_lr = cell.lr * BATCH / 256
    optimizer = PLAIN[cell.optimizer](probe.parameters(), lr=peak_lr, weight_decay=cell.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    course = []
    for _ in range(EPOCHS):
        losses = []
        for batch in BATCHES[:STEPS]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(probe(batch.arrays["patch"].double()), batch.labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        course.append(sum(losses) / STEPS)
    return course


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twelve_cells_follow_a_plain_loop_of_one_head_at_a_time_over_twenty_epochs(optimizer: str) -> None:
    cells = make_cells("ep:queries=3", optimizer)
    group = make_group(cells, "float64")
    starts = {name: value.detach().clone() for name, value in group.head.named_parameters()}
    course = []
    for epoch, number in product(range(EPOCHS), range(STEPS)):
        group.train_batch(BATCHES[number], lr_factor(epoch + number / STEPS, EPOCHS, WARMUP))
        if number == STEPS - 1:
            group.retire()
            course.append(group.take_losses())
    names = {"queries": "pooling.queries", "value.weight": "pooling.value"}
    names |= {f"classifier.{name}": name for name in ("weight", "bias")}
    for index in set(range(len(cells))) - {DIVERGING}:
        probe = PlainProbe(3).double()
        probe.load_state_dict({theirs: starts[ours][index] for theirs, ours in names.items()}, strict=False)
        assert [losses[index] for losses in course] == pytest.approx(plain_loop(cells[index], probe), rel=1e-8)
        for theirs, ours in (
            *names.items(),
            ("norm.running_mean", "running_mean"),
            ("norm.running_var", "running_var"),
        ):
            found, expected = group.head.state_dict()[ours][index], probe.state_dict()[theirs]
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8, msg=theirs)
