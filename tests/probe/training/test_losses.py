"""Losses and their gradients against naive formulas in float64."""

from math import log

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.training.losses import cell_losses

LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1])
MANY_LABELS = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) < 0.4
OF_CELLS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def make_logits(cell_by_cell: bool) -> Tensor:
    """(7, 3, 5), one cell after the other in memory or not."""
    draw = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(7, 3, 5, dtype=torch.float64, generator=draw)
    return logits.transpose(0, 1).contiguous().transpose(0, 1) if cell_by_cell else logits


def naive_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each cell's loss, (H,), from the definitions."""
    if labels.ndim == 1:
        rows = torch.arange(len(labels))
        return torch.stack([-(of.exp()[rows, labels] / of.exp().sum(1)).log().mean() for of in logits.unbind(1)])
    hits = torch.where(labels[:, None], 1 / (1 + (-logits).exp()), 1 / (1 + logits.exp()))
    return -hits.log().mean(2).mean(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("labels", [LABELS, MANY_LABELS], ids=["one", "many"])
@pytest.mark.parametrize("cell_by_cell", [False, True])
def test_losses_and_gradients_equal_their_definitions(dtype: torch.dtype, labels: Tensor, cell_by_cell: bool) -> None:
    logits = make_logits(cell_by_cell).to(dtype).requires_grad_()
    found = cell_losses(logits * 1, labels)
    (found * OF_CELLS.to(found.dtype)).sum().backward()
    exact = logits.detach().double().requires_grad_()
    expected = naive_losses(exact, labels)
    (expected * OF_CELLS).sum().backward()
    assert logits.grad is not None
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found.double(), expected, rtol=close, atol=close)
    rounding = max(torch.finfo(dtype).eps, close)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("cell_by_cell", [False, True])
def test_class_weights_weigh_images_as_torchs_cross_entropy_does(cell_by_cell: bool) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)
    logits = make_logits(cell_by_cell).requires_grad_()
    found = cell_losses(logits * 1, LABELS, weights)
    (found * OF_CELLS).sum().backward()
    exact = logits.detach().clone().requires_grad_()
    expected = torch.stack([torch.nn.functional.cross_entropy(of, LABELS, weights) for of in exact.unbind(1)])
    (expected * OF_CELLS).sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits.grad, exact.grad, rtol=1e-12, atol=1e-12)


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    logits = torch.tensor([[[1e4, 0.0], [0.0, 1e4]]])
    assert cell_losses(logits, torch.tensor([0])).tolist() == [0, 1e4]
    assert cell_losses(logits, torch.tensor([[1, 0]])).tolist() == pytest.approx([log(2) / 2, (log(2) + 1e4) / 2])


@pytest.mark.parametrize("labels", [LABELS, MANY_LABELS], ids=["one", "many"])
def test_a_cell_without_finite_logits_leaves_its_neighbours_bit_equal(labels: Tensor) -> None:
    results = []
    for value in (0.0, torch.nan):
        logits = make_logits(False).float()
        logits[:, 1] = value
        logits.requires_grad_()
        losses = cell_losses(logits * 1, labels)
        losses.sum().backward()
        assert logits.grad is not None
        results.append((losses.detach()[[0, 2]], logits.grad[:, [0, 2]]))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
