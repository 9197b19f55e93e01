"""Attention in blocks of images: no block, kept map or type changes what is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tokenprobe.probe.heads import blocked, build_pooling
from tokenprobe.probe.heads.folded import attend, attend_values, centred, token_rstd

from .test_folded import CLOSE, random


def formula(x: Tensor, u: Tensor) -> Tensor:
    """Return z, (B, H, M, D), image by image and map by map."""
    each = [[(q @ image.T).softmax(-1) @ image for q in u[i % len(u)].flatten(0, 1)] for i, image in enumerate(x)]
    return torch.stack([torch.stack(row) for row in each]).unflatten(1, u.shape[1:3])


@pytest.mark.parametrize("n_blocks", [1, 2, 4, 7])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("n_queries", [1, 7])
def test_blocks_give_the_formula_and_its_gradient(
    monkeypatch: pytest.MonkeyPatch, n_queries: int, normed: bool, keeps: bool, n_blocks: int
) -> None:
    """Seven images in blocks of 7, 4, 2 or 1, with maps that are kept or made again."""
    x, cotangent = 3 * random(7, 6, 5) + 1, random(7, 2, 4, 5, seed=2)
    u, again = (random(n_queries, 2, 4, 5, seed=1).requires_grad_() for _ in range(2))
    rstd = token_rstd(x, 1e-3) if normed else None
    expected = formula(torch.nn.functional.layer_norm(x, (5,), eps=1e-3) if normed else x, again)
    monkeypatch.setattr(blocked, "CACHE_BYTES", 1)
    monkeypatch.setattr(blocked, "MAX_BLOCKS", n_blocks)
    if not keeps:
        monkeypatch.setattr(blocked, "MAPS_BYTES", 1)
    found = attend(x, u, rstd)
    torch.testing.assert_close(found, expected, **CLOSE)
    for z in (found, expected):
        (z * cotangent).sum().backward()
    torch.testing.assert_close(u.grad, again.grad, **CLOSE)


@pytest.mark.parametrize("n_blocks", [1, 4])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("n_queries", [1, 7])
def test_values_of_blocks_give_the_formula_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch, n_queries: int, normed: bool, keeps: bool, n_blocks: int
) -> None:
    """Map m owns rows 3 m to 3 m + 2 of a cell's value map."""
    x, cotangent = 3 * random(7, 6, 5) + 1, random(2, 7, 12, seed=2)
    u, again = (random(n_queries, 2, 4, 5, seed=1).requires_grad_() for _ in range(2))
    value, value_again = (random(2, 12, 5, seed=3).requires_grad_() for _ in range(2))
    rstd = token_rstd(x, 1e-3) if normed else None
    z = formula(torch.nn.functional.layer_norm(x, (5,), eps=1e-3) if normed else x, again)
    expected = torch.einsum("bhmd,hmkd->hbmk", z, value_again.unflatten(1, (4, 3))).flatten(2)
    monkeypatch.setattr(blocked, "CACHE_BYTES", 1)
    monkeypatch.setattr(blocked, "MAX_BLOCKS", n_blocks)
    if not keeps:
        monkeypatch.setattr(blocked, "MAPS_BYTES", 1)
    found = attend_values(x, u, centred(value) if normed else value, rstd)
    torch.testing.assert_close(found, expected, **CLOSE)
    for y in (found, expected):
        (y * cotangent).sum().backward()
    torch.testing.assert_close(u.grad, again.grad, **CLOSE)
    torch.testing.assert_close(value.grad, value_again.grad, **CLOSE)


class Memory(TorchDispatchMode):
    """Notes the bytes of the largest new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        if isinstance(found, Tensor) and not any(each.alias_info for each in func._schema.returns):
            self.most = max(self.most, found.untyped_storage().nbytes())
        return found


def test_the_gradient_of_z_is_written_over_z() -> None:
    """z is the largest tensor. A second backward pass would read the gradient as z, so torch refuses it."""
    x, u, value = random(8, 4, 32), random(1, 2, 4, 32, seed=1).requires_grad_(), random(2, 8, 32, seed=2)
    z_bytes = 8 * (8 * 8 * 32)
    with Memory() as forward:
        y = attend_values(x, u, value.requires_grad_()).sum()
    assert forward.most == z_bytes
    with Memory() as backward:
        y.backward(retain_graph=True)
    assert 0 < backward.most < z_bytes
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


class Lengths(TorchDispatchMode):
    """Notes the number of images in every batched product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.bmm:
            self.seen.append(len(args[0]))
        return func(*args, **kwargs or {})


def test_a_block_fills_the_cache_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "MAX_BLOCKS", 32)
    x, u = random(32, 6, 5), random(1, 2, 4, 5, seed=1)
    monkeypatch.setattr(blocked, "CACHE_BYTES", 3 * 8 * 6 * 8)  # the maps of three images
    for n_threads in (2, 1):
        torch.set_num_threads(n_threads)
        with FlopCounterMode(display=False) as counter, Lengths() as lengths:
            attend(x, u)
        assert counter.get_total_flops() == 2 * (2 * 32 * 8 * 6 * 5)
        assert max(lengths.seen) == 3 * n_threads


def test_tokens_that_need_a_gradient_get_it() -> None:
    x, u = random(3, 6, 5).requires_grad_(), random(1, 2, 4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(attend, (x, u))


def kept_bytes(x: Tensor, u: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward, tokens left out."""
    sizes = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        z = attend(x, u)
    assert z.requires_grad
    sizes.pop(x.untyped_storage().data_ptr())
    return sum(sizes.values())


@pytest.mark.parametrize("budget", [1, 8 * 4 * 16 * 50 - 1])
def test_maps_made_again_are_not_kept(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """Whatever is over the budget, which counts the maps of all images and cells."""
    x, u = random(4, 50, 6), random(1, 2, 8, 6, seed=1).requires_grad_()
    maps_bytes = 8 * 4 * 16 * 50
    monkeypatch.setattr(blocked, "MAPS_BYTES", maps_bytes)
    assert kept_bytes(x, u) >= maps_bytes
    monkeypatch.setattr(blocked, "MAPS_BYTES", budget)
    assert kept_bytes(x, u) < maps_bytes / 2


def test_under_autocast_one_copy_of_the_maps_is_kept_in_half_precision() -> None:
    x, u = random(4, 50, 6).bfloat16(), random(1, 2, 8, 6, seed=1).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert 2 * 4 * 16 * 50 <= kept_bytes(x, u) < 3 * 4 * 16 * 50


def test_autocast_leaves_double_precision_alone() -> None:
    x, u, value = random(4, 6, 5), random(1, 2, 4, 5, seed=1), random(2, 12, 5, seed=3)
    expected = attend_values(x, u, value)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attend_values(x, u, value), expected)


def test_the_parts_of_a_stacked_head_train_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(4, 6, 12).bfloat16()
    gradients = []
    for budget in (blocked.MAPS_BYTES, 4 * 4 * 6 * 3):
        monkeypatch.setattr(blocked, "MAPS_BYTES", budget)
        pool = build_pooling("ep", dim=12, grid=(2, 3), queries=4, cells=2, generators=[torch.Generator()] * 2)
        with torch.autocast("cpu", torch.bfloat16):
            pool(x).sum().backward()
        gradients.append(pool.queries.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-3)


def test_no_gradient_reaches_for_the_tokens() -> None:
    """Forward two products with the tokens, backward two: the one for their gradient is not made."""
    x, u = random(3, 7, 5), random(1, 2, 4, 5, seed=1).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        attend(x, u).sum().backward()
    assert counter.get_total_flops() == 4 * (2 * 3 * 8 * 7 * 5)


@pytest.mark.parametrize("name", ["ep", "cbam"])
def test_an_exported_program_has_no_parts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Their sizes would be those for the number of images in the example."""
    monkeypatch.setattr(blocked, "MAPS_BYTES", {"ep": 4 * 3 * 6 * 8, "cbam": 1}[name])  # eight maps, or one image
    pool = build_pooling(name, dim=32, grid=(2, 3)).double().eval()
    images = torch.export.Dim("images", min=2, max=64)
    program = torch.export.export(pool, (random(3, 6, 32),), dynamic_shapes=({0: images},))
    x = random(7, 6, 32, seed=1)
    torch.testing.assert_close(program.module()(x), pool(x), **CLOSE)
