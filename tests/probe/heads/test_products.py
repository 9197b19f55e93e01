"""Products of stacked cells: against a product for each, and, rounded, against torch's own under autocast."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenprobe.probe.heads import products
from tokenprobe.probe.heads.products import apply_linear

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def test_every_cell_has_its_own_matrix_and_bias() -> None:
    y, weight, bias = (draw(*shape, dtype=torch.float64) for shape in ((3, 7, 5), (3, 4, 5), (3, 4)))
    for cell in range(3):
        expected = y[cell] @ weight[cell].T
        torch.testing.assert_close(apply_linear(y, weight)[cell], expected, **CLOSE)
        torch.testing.assert_close(apply_linear(y, weight, bias)[cell], expected + bias[cell], **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by_image", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_rounded_it_gives_the_numbers_of_autocast(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, by_image: bool, with_bias: bool
) -> None:
    """What a GPU does, on the CPU: results, gradients and their types, of vectors in any order and of a slice."""
    bias = draw(3, 4).requires_grad_() if with_bias else None
    weight, g = draw(3, 4, 12)[:, :, 2:7].requires_grad_(), draw(3, 7, 4)
    for y in (draw(3, 7, 5), draw(7, 3, 5).transpose(0, 1), draw(3, 7, 5).to(dtype)):
        given = [values for values in (y.requires_grad_(), weight, bias) if values is not None]
        found = []
        for rounds in (False, True):
            monkeypatch.setattr(products, "rounds", lambda _, rounds=rounds: rounds)
            with torch.autocast("cpu", dtype):
                result = apply_linear(y, weight, bias, by_image=by_image)
            found.append([result.detach(), *torch.autograd.grad(result, given, g.to(dtype))])
        for theirs, ours in zip(*found, strict=True):
            assert torch.equal(theirs, ours) and theirs.dtype == ours.dtype


def test_rounded_results_and_gradients_lie_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result image by image or cell by cell, the gradients as what they are gradients of."""
    monkeypatch.setattr(products, "rounds", lambda _: True)
    y, weight = draw(7, 3, 5).transpose(0, 1).requires_grad_(), draw(3, 4, 5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        by_image, by_cell = (apply_linear(y, weight, by_image=choice) for choice in (True, False))
    assert by_image.transpose(0, 1).is_contiguous() and by_cell.is_contiguous()
    of_y, of_weight = torch.autograd.grad(by_image.float().sum(), [y, weight])
    assert of_y.transpose(0, 1).is_contiguous() and of_weight.is_contiguous()


def test_only_the_gradients_that_are_needed_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "rounds", lambda _: True)
    weight = draw(3, 4, 5).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False) as counter:
        apply_linear(draw(3, 7, 5), weight).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 3 * 7 * 4 * 5)
