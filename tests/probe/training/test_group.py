"""What a group does for its cells. That they are trained as if alone is tested in test_together.py."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.probe.training.metrics import AccuracyCounter

SHAPE = TokenShape(grid=(2, 3), dim=12, n_prefix=2)
RATES = {"lars": [0.1, 3.0, 30.0, 1.0], "sgd": [0.01, 0.1, 0.03, 1.0], "adamw": [0.001, 0.01, 0.1, 0.03]}


def make_cells(head: str, optimizer: str) -> list[Cell]:
    spec = parse_heads([head])[0]
    decays, seeds = (0.0, 0.01, 0.0, 0.1), (0, 0, 1, 2)
    return [
        Cell("made", LayerSet((0,)), spec, optimizer, lr, decay, "full", seed)
        for lr, decay, seed in zip(RATES[optimizer], decays, seeds, strict=True)
    ]


def make_group(cells: Sequence[Cell], **changes: Any) -> Group:
    settings: dict[str, Any] = {"batch_size": 16, "device": torch.device("cpu"), "precision": "float32"}
    return Group(cells, GroupSetup(SHAPE, 5, **settings | changes))


def make_batch(seed: int, n_images: int = 16) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (n_images,), generator=generator)
    patch = torch.randn(n_images, 6, 12, generator=generator)
    patch[:, :5] += torch.nn.functional.one_hot(labels, 12)[:, None]
    return TokenBatch({"patch": patch, "prefix": patch[:, :2] * 2, "mean": patch.mean(1)}, labels)


def train(group: Group, n_steps: int = 30) -> list[list[float]]:
    losses = []
    for step in range(n_steps):
        group.train_batch(make_batch(step), 0.5 + step / n_steps)
        losses.append(group.take_losses())
    return losses


def test_the_rate_is_scaled_by_the_batch() -> None:
    cell = Cell("made", LayerSet((0,)), parse_heads(["linear"])[0], "sgd", 0.8, 0.0, "full", 0)
    batch = make_batch(0)
    moved = []
    for batch_size in (16, 64):
        group = make_group([cell], batch_size=batch_size)
        before = group.head.bias.detach().clone()
        group.train_batch(batch, 0.5)
        moved.append(group.head.bias.detach() - before)
    shares = torch.nn.functional.one_hot(batch.labels, 5).float().mean(0)
    group = make_group([cell])
    group.head.train()
    gradient = group.head(batch.arrays["mean"][:, None]).softmax(2)[:, 0].mean(0) - shares
    torch.testing.assert_close(moved[0][0], -0.8 * 16 / 256 * 0.5 * gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved[1], 4 * moved[0], rtol=1e-4, atol=1e-7)


def test_losses_are_the_mean_over_batches_since_they_were_last_taken() -> None:
    """With a rate of zero the weights stay, so that each batch's loss can be computed apart."""
    group = make_group(make_cells("linear:pool=mean", "sgd"))
    expected = []
    for seed in range(3):
        batch = make_batch(seed)
        features = batch.arrays["mean"]
        normed = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
        logits = torch.einsum("bd,hcd->bhc", normed, group.head.weight) + group.head.bias
        expected.append([-logits[:, h].log_softmax(1)[torch.arange(16), batch.labels].mean().item() for h in range(4)])
    for seed in (0, 1):
        group.train_batch(make_batch(seed), 0.0)
    assert group.take_losses() == pytest.approx([(a + b) / 2 for a, b in zip(*expected[:2], strict=True)], rel=1e-5)
    group.train_batch(make_batch(2), 0.0)
    assert group.take_losses() == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("head", ["linear:pool=mean", "ep:queries=3"])
def test_weights_of_classes_reach_the_loss(head: str) -> None:
    weights, batch = (0.0, 0.0, 1.0, 0.0, 0.0), make_batch(0)
    group, of_class = make_group(make_cells(head, "sgd"), class_weights=weights), batch.labels == 2
    logits = make_group(make_cells(head, "sgd")).head.train()(batch.joined(group.kinds, torch.float32))
    group.train_batch(batch, 0.0)
    expected = -logits.log_softmax(2)[of_class, :, 2].mean(0)
    assert group.take_losses() == pytest.approx(expected.tolist(), rel=1e-5)


def test_scoring_changes_nothing_and_counts_each_cell() -> None:
    group = make_group(make_cells("ep:queries=3", "adamw"))
    train(group, 20)
    before = {name: value.clone() for name, value in group.head.state_dict().items()}
    batch, counter = make_batch(99, 50), AccuracyCounter(5)
    group.count_batch(counter, batch)
    assert all(torch.equal(before[name], value) for name, value in group.head.state_dict().items())
    guesses = group.head.eval()(batch.arrays["patch"]).argmax(2)
    top1 = [scores["top1"] for scores in counter.scores()]
    assert top1 == [(guesses[:, cell] == batch.labels).sum().item() / 50 for cell in range(4)]
    assert len(set(top1)) > 1
    group.train_batch(batch, 1.0)  # the tokens that were converted for scoring


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
    batch = make_batch(0)
    half = batch.arrays["patch"].half()
    groups = [make_group(cells), make_group(cells)]
    for group, patch in zip(groups, (half, half.float()), strict=True):
        group.train_batch(TokenBatch({"patch": patch}, batch.labels), 1.0)
    assert groups[0].take_losses() == groups[1].take_losses()


@pytest.mark.parametrize("head", ["ep:queries=3", "linear:pool=mean"])
@pytest.mark.parametrize("optimizer", RATES)
def test_a_diverged_cell_is_retired_and_its_neighbours_go_on_bit_equal(head: str, optimizer: str) -> None:
    cells = make_cells(head, optimizer)
    steady, upset = make_group(cells), make_group([cells[0], replace(cells[1], lr=1e30, weight_decay=0.1), *cells[2:]])
    for group in (steady, upset):
        train(group, 3)
    assert steady.retire() == [True] * 4
    assert upset.retire() == [True, False, True, True]
    others = [0, 2, 3]
    expected, found = torch.tensor(train(steady, 3)), torch.tensor(train(upset, 3))
    assert torch.equal(expected[:, others], found[:, others]) and found[:, 1].isnan().all()
    assert upset.retire() == [True, False, True, True]
    for name, value in upset.state().items():
        if value.ndim and name not in ("alive", "loss_sum"):
            assert torch.equal(value[others], steady.state()[name][others]), name
            own = "running" not in name or head.startswith("ep")  # a linear head's statistics are everybody's
            assert not own or (value[1] == 0).all(), name


def test_a_cell_of_a_head_with_fixed_positions_is_retired() -> None:
    """Its positions are a buffer of all cells, which is not saved."""
    cells = make_cells("abmilp:cond=pe", "sgd")
    group = make_group([*cells[:2], replace(cells[2], lr=1e30), cells[3]])
    train(group, 3)
    position = group.head.pooling.get_buffer("position").clone()
    assert group.retire() == [True, True, False, True]
    assert torch.equal(group.head.pooling.get_buffer("position"), position) and position.any()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_gradients_are_clipped_per_cell_as_torch_clips_those_of_a_module(precision: str) -> None:
    """Each cell against torch's `clip_grad_norm_` on the parameters of the cell alone, and SGD's first step."""
    cells = [replace(cell, lr=1.0, weight_decay=0.0) for cell in make_cells("ep:queries=3", "sgd")]
    clipped, batch = make_group(cells, precision=precision, clip_grad=0.3, batch_size=256), make_batch(0)
    start = {name: value.detach().clone() for name, value in clipped.head.named_parameters()}
    clipped.train_batch(batch, 1.0)
    for index, cell in enumerate(cells):
        alone = make_group([cell], precision=precision, batch_size=256)
        logits = alone.head.train()(alone._tokens(batch))[:, 0]
        torch.nn.functional.cross_entropy(logits, batch.labels).backward()
        assert torch.nn.utils.clip_grad_norm_(alone.head.parameters(), 0.3) > 0.3
        for name, value in alone.head.named_parameters():
            assert value.grad is not None
            step = start[name][index] - clipped.head.get_parameter(name).detach()[index]
            torch.testing.assert_close(step, value.grad[0], rtol=1e-4, atol=1e-6)


def test_a_gradient_below_the_limit_is_left_alone() -> None:
    cells = make_cells("ep:queries=3", "adamw")
    free, limited = make_group(cells), make_group(cells, clip_grad=1e6)
    assert train(free, 5) == train(limited, 5)


def test_a_loss_that_is_not_finite_retires_a_cell_before_its_weights_show_it() -> None:
    cells = make_cells("linear:pool=mean", "sgd")
    group = make_group(cells)
    with torch.no_grad():
        group.head.weight[2] *= 1e38
    group.train_batch(make_batch(0), 0.0)
    assert all(value.isfinite().all() for value in group.head.state_dict().values())
    assert group.retire() == [True, True, False, True]


def test_a_group_goes_on_exactly_from_its_state() -> None:
    for optimizer, precision in (("lars", "float32"), ("sgd", "float64"), ("adamw", "float32")):
        cells = make_cells("ep:queries=3", optimizer)
        cells[1] = replace(cells[1], lr=1e30, weight_decay=0.1)
        group, other = make_group(cells, precision=precision), make_group(cells, precision=precision)
        train(group, 3)
        group.retire()
        group.keep_best([True, False, True, True])
        group.train_batch(make_batch(7), 1.0)
        other.load_state({name: value.clone() for name, value in group.state().items()})
        assert other.seconds == group.seconds > 0 and other.cpu_seconds == group.cpu_seconds > 0
        assert all(torch.equal(value, other.best_state(2)[name]) for name, value in group.best_state(2).items())
        assert str(train(group, 3)) == str(train(other, 3))  # as text NaN equals NaN
        assert group.retire() == other.retire() == [True, False, True, True]
        assert group.state().keys() == other.state().keys()
        for name, value in group.state().items():
            assert "seconds" in name or torch.equal(value, other.state()[name]), name


def test_a_retired_cell_stays_retired_in_a_group_that_goes_on() -> None:
    """It does not train again until the end of the next epoch."""
    for optimizer in RATES:
        cells = make_cells("ep:queries=3", optimizer)
        cells[1] = replace(cells[1], lr=1e30, weight_decay=0.1)
        group, other = make_group(cells), make_group(cells)
        train(group, 3)
        assert group.retire() == [True, False, True, True]
        other.load_state({name: value.clone() for name, value in group.state().items()})
        other.train_batch(make_batch(7), 1.0)
        for name, value in other.state().items():
            if name.startswith(("head.weight", "head.bias", "head.pooling", "optimizer.")) and value.ndim:
                assert (value[1] == 0).all() and (value[2] != 0).any(), (optimizer, name)


def test_several_labels_an_image_train_by_the_sigmoids_loss() -> None:
    """One step of SGD against the gradient of torch's own loss."""
    group = make_group(make_cells("linear:pool=mean", "sgd")[:1], multi_label=True)
    batch = make_batch(0)
    batch.labels = (torch.rand(16, 5, generator=torch.Generator().manual_seed(0)) < 0.4).long()
    before = group.head.bias.detach().clone()
    logits = group.head.train()(batch.arrays["mean"][:, None]).detach()[:, 0]
    group.train_batch(batch, 1.0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels.float())
    assert group.take_losses() == [pytest.approx(expected.item(), rel=1e-6)]
    gradient = (logits.sigmoid() - batch.labels).mean(0) / 5
    torch.testing.assert_close(group.head.bias[0] - before[0], -0.01 * 16 / 256 * gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("multi_label", [False, True])
def test_small_gradients_survive_float16(multi_label: bool) -> None:
    """A wrong class of chance 2e-4 in a batch of 2048 has gradients of 1e-7, which float16 knows to one bit."""
    labels = (
        torch.zeros(2048, 5).index_fill_(1, torch.tensor([0]), 1).long() if multi_label else torch.zeros(2048).long()
    )
    patch = torch.randn(2048, 6, 12, generator=torch.Generator().manual_seed(0))
    moved = []
    for precision in ("float32", "float16"):
        group = make_group(
            make_cells("ep:queries=3", "sgd")[:1], batch_size=2048, precision=precision, multi_label=multi_label
        )
        with torch.no_grad():
            group.head.weight.zero_()
            group.head.bias[0] = (
                torch.tensor([8.4, 0, 0, 0, 0]) if not multi_label else torch.tensor([8.4, *[-8.4] * 4])
            )
        before = group.head.bias.detach().clone()
        group.train_batch(TokenBatch({"patch": patch}, labels), 1.0)
        moved.append(group.head.bias.detach() - before)
    assert (moved[0].abs() > 0).all()
    torch.testing.assert_close(moved[1], moved[0], rtol=0.01, atol=0)


def test_float64_starts_where_float32_does() -> None:
    double, single = (make_group(make_cells("ep:queries=3", "lars"), precision=p) for p in ("float64", "float32"))
    for name, value in double.head.state_dict().items():
        assert value.dtype == torch.float64 and torch.equal(value, single.head.state_dict()[name].double())
