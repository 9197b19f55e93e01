"""Tensors without values against tensors with them: the same shapes, types and devices, the same bytes alive."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.probe.planning.arena import MIB
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


def test_on_a_gpu_the_peak_is_what_its_allocator_takes() -> None:
    """Whole segments, apart from the tensors there were; a freed block is of no use to a larger tensor."""
    with Shadows(torch.device("cuda", 0)) as shadows:
        before = torch.zeros(1000)
        shadows.forget_peak()
        half = torch.zeros(100 * MIB // FLOAT)
        whole = torch.zeros(200 * MIB // FLOAT)
        del half
        other = torch.zeros(200 * MIB // FLOAT)
        assert shadows.now == before.nbytes + whole.nbytes + other.nbytes
        assert shadows.peak == before.nbytes + 500 * MIB
        shadows.forget_peak()
        assert shadows.peak == shadows.now
        del before, whole  # blocks of another time
        third = torch.zeros(100 * MIB // FLOAT)
        assert shadows.peak == 1000 * FLOAT + 400 * MIB + third.nbytes


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
    assert torch.ones(3, dtype=torch.int64).bincount(minlength=7).shape == (7,)
    assert nn.init.trunc_normal_(torch.empty(4, 5), 0, 1, -2, 2).shape == (4, 5)  # draws until all are in range


def test_inference_mode_sees_views_of_ordinary_tensors(shadows: Shadows) -> None:
    weight = nn.Parameter(torch.zeros(4, 3))
    with torch.inference_mode():
        assert (torch.zeros(2, 3) @ weight[None, :2].mT[0]).shape == (2, 2)


def test_inference_mode_counts_what_is_made_on_the_way(shadows: Shadows) -> None:
    """Whether numbers are finite is found from their sizes, which are as many."""
    x = torch.zeros(1000)
    with torch.inference_mode():
        x.isfinite()
    assert shadows.peak >= 2000 * FLOAT


def test_nothing_is_computed_outside() -> None:
    with Shadows(CPU):
        a = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"aten.add.Tensor on a tensor without values, outside of the Shadows"):
        a + 1
