"""Cells trained together against the same cells alone; no cell reaches another."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.grid import Cell, parse_heads
from tokenprobe.probe.group import Group, cell_losses
from tokenprobe.probe.metrics import AccuracyCounter
from tokenprobe.probe.optim import OPTIMIZERS
from tokenprobe.store.layout import LayerShape

SHAPE = LayerShape(grid=(2, 3), dim=12, n_prefix=2)
RATES = {"lars": [0.1, 3.0, 30.0, 1.0], "sgd": [0.01, 0.1, 0.03, 1.0], "adamw": [0.001, 0.01, 0.1, 0.03]}


OTHER_HEADS = [
    "abmilp", "simpool:tokens=patch+prefix", "esimpool", "clip", "siglip:heads=4", "aim:heads=4", "cbam",
    "coca:queries=2", "cait", "dinovit:heads=4", "jepa:heads=4", "dolg", "cae:heads=4", "linear:pool=cls+mean",
    "linear:pool=max",
]  # fmt: skip


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_cells(head: str, optimizer: str) -> list[Cell]:
    spec = parse_heads([head])[0]
    decays, seeds = (0.0, 0.01, 0.0, 0.1), (0, 0, 1, 2)
    return [Cell(0, spec, optimizer, *rest) for rest in zip(RATES[optimizer], decays, seeds, strict=True)]


def make_group(cells: Sequence[Cell], **changes: Any) -> Group:
    settings = {"batch_size": 16, "device": torch.device("cpu"), "precision": "float32"}
    return Group(cells, SHAPE, 5, **settings | changes)


def make_batch(seed: int, n_images: int = 16) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (n_images,), generator=generator)
    patch = torch.randn(n_images, 6, 12, generator=generator)
    patch[:, :5] += torch.nn.functional.one_hot(labels, 12)[:, None]
    return {"patch": patch, "prefix": patch[:, :2] * 2, "mean": patch.mean(1)}, labels


def train(group: Group, n_steps: int = 30) -> list[list[float]]:
    losses = []
    for step in range(n_steps):
        group.train_batch(*make_batch(step), 0.5 + step / n_steps)
        losses.append(group.take_losses())
    return losses


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("head", "optimizer"),
    [
        *product(["ep:queries=3", "ep:queries=2,d_out=2", "linear:pool=mean", "linear:pool=cls"], OPTIMIZERS),
        *((head, "lars") for head in OTHER_HEADS),
    ],
)
def test_cells_trained_together_equal_each_trained_alone(head: str, optimizer: str) -> None:
    cells = make_cells(head, optimizer)
    together = make_group(cells)
    losses = torch.tensor(train(together))
    assert losses.isfinite().all() and together.head.weight.dtype == torch.float64
    for index, cell in enumerate(cells):
        alone = make_group([cell])
        torch.testing.assert_close(torch.tensor(train(alone))[:, 0], losses[:, index], rtol=1e-8, atol=1e-8)
        for name, value in alone.head.state_dict().items():
            torch.testing.assert_close(together.head.state_dict()[name][index], value[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("head", ["ep:queries=3", "linear:pool=mean"])
def test_a_cell_that_diverges_leaves_its_neighbours_bit_equal(head: str, optimizer: str) -> None:
    cells = make_cells(head, optimizer)
    absurd = [*cells[:1], replace(cells[1], lr=1e30, weight_decay=0.1), *cells[2:]]
    steady, upset = make_group(cells), make_group(absurd)
    expected, found = torch.tensor(train(steady)), torch.tensor(train(upset))
    assert expected.isfinite().all()
    assert not upset.head.weight[1].isfinite().all()
    others = [0, 2, 3]
    assert torch.equal(expected[:, others], found[:, others])
    for name, value in steady.head.state_dict().items():
        assert torch.equal(value[others], upset.head.state_dict()[name][others]), name


def test_the_rate_is_scaled_by_the_batch() -> None:
    cell = Cell(0, parse_heads(["linear"])[0], "sgd", 0.8, 0.0, 0)
    arrays, labels = make_batch(0)
    moved = []
    for batch_size in (16, 64):
        group = make_group([cell], batch_size=batch_size)
        before = group.head.bias.detach().clone()
        group.train_batch(arrays, labels, 0.5)
        moved.append(group.head.bias.detach() - before)
    shares = torch.nn.functional.one_hot(labels, 5).float().mean(0)
    group = make_group([cell])
    group.head.train()
    gradient = group.head(arrays["mean"][:, None]).softmax(2)[:, 0].mean(0) - shares
    torch.testing.assert_close(moved[0][0], -0.8 * 16 / 256 * 0.5 * gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved[1], 4 * moved[0], rtol=1e-4, atol=1e-7)


def test_losses_are_the_mean_over_batches_since_they_were_last_taken() -> None:
    """With a rate of zero the weights stay, so that each batch's loss can be computed apart."""
    group = make_group(make_cells("linear:pool=mean", "sgd"))
    expected = []
    for seed in range(3):
        arrays, labels = make_batch(seed)
        features = arrays["mean"]
        normed = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
        logits = torch.einsum("bd,hcd->bhc", normed, group.head.weight) + group.head.bias
        expected.append([-logits[:, h].log_softmax(1)[torch.arange(16), labels].mean().item() for h in range(4)])
    for seed in (0, 1):
        group.train_batch(*make_batch(seed), 0.0)
    assert group.take_losses() == pytest.approx([(a + b) / 2 for a, b in zip(*expected[:2], strict=True)], rel=1e-5)
    group.train_batch(*make_batch(2), 0.0)
    assert group.take_losses() == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cell_losses_are_the_cross_entropies_of_each_cell(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(7, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    found = cell_losses(logits, labels)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for cell in range(3):
        rows = logits[:, cell].double()
        expected = sum(row.exp().sum().log() - row[y] for row, y in zip(rows, labels, strict=True)) / 7
        assert found[cell].item() == pytest.approx(expected.item(), rel=1e-12 if dtype == torch.float64 else 1e-6)


def test_scoring_changes_nothing_and_counts_each_cell() -> None:
    group = make_group(make_cells("ep:queries=3", "adamw"))
    train(group, 20)
    before = {name: value.clone() for name, value in group.head.state_dict().items()}
    arrays, labels = make_batch(99, 50)
    counter = AccuracyCounter()
    group.count_batch(counter, arrays, labels)
    assert all(torch.equal(before[name], value) for name, value in group.head.state_dict().items())
    guesses = group.head.eval()(arrays["patch"]).argmax(2)
    assert counter.top1() == [(guesses[:, cell] == labels).sum().item() / 50 for cell in range(4)]
    assert len(set(counter.top1())) > 1


def test_the_best_weights_are_kept_for_each_cell_apart() -> None:
    group = make_group(make_cells("ep:queries=3", "sgd"))
    seen = []
    for improved in ([True] * 4, [False, True, False, True], [False, False, False, True], [False] * 4):
        train(group, 2)
        group.keep_best(improved)
        seen.append({name: value.clone() for name, value in group.head.state_dict().items()})
    for cell, epoch in enumerate([0, 1, 0, 2]):
        best = group.best_state(cell)
        assert set(best) == {"weight", "bias", "running_mean", "running_var", "pooling.queries", "pooling.value"}
        assert all(torch.equal(value, seen[epoch][name][cell]) for name, value in best.items())
        assert all(value.dtype == torch.float32 and value.is_contiguous() for value in best.values())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("head", ["ep:queries=3", "linear:pool=mean", "linear:pool=cls"])
def test_lower_precision_trains_the_same_head_to_rounding(head: str, precision: str) -> None:
    """bfloat16 keeps 8 bits and float16 11: losses agree to a few percent, or to one; weights stay float32."""
    cells = make_cells(head, "lars")[:2]
    exact, rounded = make_group(cells), make_group(cells, precision=precision)
    found, expected = (torch.tensor(train(group, 10)) for group in (rounded, exact))
    torch.testing.assert_close(found, expected, rtol=0.05 if precision == "bfloat16" else 0.01, atol=0)
    assert {value.dtype for value in rounded.head.state_dict().values()} == {torch.float32}


def test_stored_types_are_read_as_the_type_of_the_head() -> None:
    cells = make_cells("ep:queries=3", "lars")
    arrays, labels = make_batch(0)
    half = arrays["patch"].half()
    groups = [make_group(cells), make_group(cells)]
    for group, patch in zip(groups, (half, half.float()), strict=True):
        group.train_batch({"patch": patch}, labels, 1.0)
    assert groups[0].take_losses() == groups[1].take_losses()
