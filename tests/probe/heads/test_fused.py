"""When attention is fused, what an estimate of memory and a count of operations see of it."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenprobe.probe.heads import flops, folded, fused
from tokenprobe.probe.planning.shadow import Shadows

from .fused_kit import Case


def test_where_triton_cannot_start_one_line_says_so_once() -> None:
    code = """
from tokenprobe.probe.heads import fused
from tokenprobe.runtime.console import shown

with shown():
    assert [fused.starts() for _ in range(3)] == [False] * 3
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stderr
    assert said.count("\n") == 1
    assert said.startswith("attention runs unfused, which is slower: Triton does not start (")


def test_tokens_on_a_gpu_are_fused_where_triton_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that claim to be on a GPU ask the same, so an estimate takes the path of the real step."""
    starts = True
    monkeypatch.setattr(fused, "starts", lambda: starts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))

    def can_fuse(
        device: str = "cuda:0", n_tokens: int = 7, types: str = "bfloat16 bfloat16", dim: int = 8, **grad: Any
    ) -> bool:
        of_x, of_u = (getattr(torch, name) for name in types.split())
        with Shadows(torch.device(device)):
            return fused.can_fuse(
                torch.empty(2, n_tokens, dim, dtype=of_x, **grad), torch.empty(1, 1, 3, dim, dtype=of_u)
            )

    assert can_fuse() and can_fuse(types="float16 float16") and can_fuse(n_tokens=fused.MOST_TOKENS)
    assert not can_fuse("cpu") and not can_fuse(n_tokens=fused.MOST_TOKENS + 1) and not can_fuse(requires_grad=True)
    assert not can_fuse(dim=12)
    assert not can_fuse(types="float64 float64") and not can_fuse(types="float16 float32")
    assert not can_fuse(types="float32 float32")  # torch's own products are faster
    starts = False
    assert not can_fuse()


@pytest.mark.parametrize("n_parts", [1, 4])
def test_an_estimate_counts_the_results_and_one_part_of_the_scores(
    monkeypatch: pytest.MonkeyPatch, n_parts: int
) -> None:
    """On a device that the CPU-only engine of autograd knows; the operation is the same for all."""
    n_images, n_tokens, dim, n_queries = 4, 50, 16, 64
    maps_bytes = 4 * n_images * n_tokens * n_queries
    monkeypatch.setattr(fused, "SCORES_BYTES", maps_bytes // n_parts)
    with Shadows(torch.device("cpu")) as shadows:
        x, u = torch.empty(n_images, n_tokens, dim), torch.empty(1, 2, n_queries // 2, dim).requires_grad_()
        g = torch.empty(n_images, n_queries, dim).unflatten(1, (2, -1))
        before = shadows.now
        z = fused.attend(x, u)[0]
        kept = 4 * n_images * n_queries * (dim + 1)
        assert shadows.now - before == kept
        shadows.forget_peak()
        z.backward(g)
        gradient = 4 * n_queries * dim  # twice at most: its parts, and all of it
        assert 0 <= shadows.peak - before - kept - maps_bytes // n_parts <= 2 * gradient


@pytest.mark.parametrize("shared", [True, False])
def test_it_costs_what_torchs_own_operations_cost(shared: bool) -> None:
    """Two products forward and two backward; the scores that are made again are not counted."""
    counts = []
    for function in (folded.attend_unfused, lambda x, u: fused.attend(x, u)[0]):
        x = torch.empty(3, 7, 5, device="meta")
        u = torch.empty(1 if shared else 3, 2, 4, 5, device="meta").requires_grad_()
        with FlopCounterMode(display=False) as counter:
            function(x, u).sum().backward()
        counts.append(counter.get_total_flops())
    assert flops.fused is fused and counts == [4 * (2 * 3 * 8 * 7 * 5)] * 2


def test_results_lie_as_the_products_that_follow_take_them() -> None:
    """Of queries that images share, map by map; of others, image by image."""
    x = torch.empty(3, 7, 5, device="meta")
    shared, own = (fused.attend(x, torch.empty(n, 2, 4, 5, device="meta"))[0] for n in (1, 3))
    assert shared.shape == own.shape == (3, 2, 4, 5)
    assert shared.movedim(0, 2).is_contiguous() and own.is_contiguous()


def test_rows_are_copied_unless_they_begin_at_multiples_of_16_bytes() -> None:
    rows = torch.randn(3, 5, 16, dtype=torch.float16)
    for as_is in (
        rows,
        rows.transpose(0, 1),
        rows[:, 1:],
        rows[..., 8:],
        torch.randn(40, dtype=torch.float16)[8:][None],
    ):
        assert fused.aligned(as_is) is as_is
    one = torch.randn(8, dtype=torch.float16).as_strided((1, 1, 8), (3, 5, 1))
    assert fused.aligned(one) is one  # strides of an axis of one are nobody's
    flat = torch.randn(244, dtype=torch.float16)
    for other in (rows.transpose(1, 2), rows[..., 4:12], rows[:1].expand(3, 5, 16), flat[4:].view(3, 5, 16)):
        copied = fused.aligned(other)
        assert copied is not other and copied.is_contiguous() and torch.equal(copied, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_folded_attention_is_fused_and_keeps_no_map() -> None:
    case = Case(64, 196, 768, 8, 32, True, False, "bfloat16")
    x, u, g, _ = case.tensors("cuda")
    assert not fused.can_fuse(x, u.float())
    with torch.autocast("cuda", torch.bfloat16):
        assert fused.can_fuse(x, u.float()) and fused.can_fuse(x.float(), u.float())
    kept = []
    for function in (folded.attend_unfused, folded.attend):
        before = torch.cuda.memory_allocated()
        z = function(x, u)
        kept.append(torch.cuda.memory_allocated() - before - z.nbytes)
        z.backward(g.to(z.dtype))
        del z
    maps_bytes = 2 * 64 * 256 * 196
    assert kept[0] >= maps_bytes and kept[1] < maps_bytes / 10
