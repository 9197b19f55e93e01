"""Tensors without values against tensors with them: the same shapes, types and devices, the same bytes alive."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.probe.planning.shadow import Shadow, Shadows

CPU = torch.device("cpu")
FLOAT = 4


@pytest.fixture
def shadows() -> Iterator[Shadows]:
    with Shadows(CPU) as mode:
        yield mode


def rounded_product() -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.ones(2, 3) @ torch.ones(3, 5)


FUNCTIONS: dict[str, Callable[[], Tensor]] = {
    "autocast": rounded_product,
    "transposed": lambda: torch.randn(4, 3, generator=torch.Generator()).T[1:],
    "converted": lambda: torch.arange(4).to(torch.float16),
    "moved": lambda: torch.zeros(2, device="cpu").to("cpu", torch.float64),
    "from values": lambda: torch.tensor([[1.0, 2.0]]) * 2,
    "in place": lambda: torch.zeros(3, 2).add_(1)[0],
    "summed": lambda: nn.Linear(3, 2)(torch.ones(5, 3)).sum(0),
    "softmax": lambda: torch.ones(5, 3, dtype=torch.bfloat16).softmax(-1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_look_like_those_with_values(name: str) -> None:
    expected = FUNCTIONS[name]()
    with Shadows(CPU):
        found = FUNCTIONS[name]()
    assert isinstance(found, Shadow) and found.device == expected.device
    assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_bytes_are_counted_while_a_tensor_or_a_view_of_it_is_alive(shadows: Shadows) -> None:
    a = torch.zeros(1000)
    b = a.view(10, 100).T[2:]
    assert shadows.now == shadows.peak == 1000 * FLOAT
    c = b + 1
    assert shadows.now == 1980 * FLOAT
    del a
    assert shadows.now == 1980 * FLOAT
    del b
    assert (shadows.now, shadows.peak) == (980 * FLOAT, 1980 * FLOAT)
    shadows.forget_peak()
    c.add_(c)
    assert shadows.peak == 980 * FLOAT
    del c
    assert shadows.now == 0


def test_a_step_of_autograd_is_counted(shadows: Shadows) -> None:
    """y = (xw)² keeps x (given), w and xw for the backward pass, and leaves a gradient of w."""
    x, w = torch.zeros(50, 20), nn.Parameter(torch.zeros(20, 30))
    before = shadows.now
    assert before == (1000 + 600) * FLOAT
    y = (x @ w).square()
    assert shadows.now - before == 2 * 1500 * FLOAT
    y.sum().backward()
    del y
    assert w.grad is not None and w.grad.shape == w.shape
    assert shadows.now - before == 600 * FLOAT


def test_values_are_as_of_zeros(shadows: Shadows) -> None:
    assert torch.ones(3).sum().item() == 0
    assert not bool(torch.ones(3).any())
    assert torch.ones(3, 2).nonzero().shape == (0, 2)
    assert nn.init.trunc_normal_(torch.empty(4, 5), 0, 1, -2, 2).shape == (4, 5)  # draws until all are in range


def test_inference_mode_sees_views_of_ordinary_tensors(shadows: Shadows) -> None:
    weight = nn.Parameter(torch.zeros(4, 3))
    with torch.inference_mode():
        assert (torch.zeros(2, 3) @ weight[None, :2].mT[0]).shape == (2, 2)


def test_nothing_is_computed_outside() -> None:
    with Shadows(CPU):
        a = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"aten.add.Tensor on a tensor without values, outside of the Shadows"):
        a + 1
