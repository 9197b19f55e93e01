"""Fused attention: by Triton's interpreter on the CPU, by its compiler for GPUs, and, where there is one, on a GPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenprobe.probe.heads import flops, folded, fused
from tokenprobe.probe.planning.shadow import Shadows

from . import fused_kit
from .fused_kit import INTERPRETED, Case

TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.5e-2}
"""Relative to a norm: some roundings of 2^-24, 2^-11 and 2^-8 in a row."""
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Return the results of all cases from a process of its own: Triton reads the variable when it is imported."""
    pytest.importorskip("triton")
    found: dict[str, Any] = json.loads(run(fused_kit.__file__, TRITON_INTERPRET="1").stdout)
    return found


@pytest.mark.parametrize("index", range(len(INTERPRETED)), ids=lambda index: "-".join(map(str, INTERPRETED[index])))
def test_the_kernels_give_the_formula_in_float64(interpreted: dict[str, Any], index: int) -> None:
    """z, the log-sum-exp, and the gradient of the queries from both."""
    assert max(interpreted["errors"][index]) < TOLERANCE[INTERPRETED[index].dtype]


@pytest.mark.parametrize("index", range(len(INTERPRETED)), ids=lambda index: "-".join(map(str, INTERPRETED[index])))
def test_they_give_the_results_and_types_of_torchs_own_operations(interpreted: dict[str, Any], index: int) -> None:
    of_z, of_gradient, alike = interpreted["against_unfused"][index]
    assert max(of_z, of_gradient) < 2 * TOLERANCE[INTERPRETED[index].dtype] and alike


def test_parts_of_the_queries_give_the_gradient_of_all(interpreted: dict[str, Any]) -> None:
    assert interpreted["in_parts"] == [True] * 6


def test_a_cell_that_is_lost_leaves_the_others_alone(interpreted: dict[str, Any]) -> None:
    assert interpreted["with_a_lost_cell"] == [True] * 6


def test_the_operation_starts_in_the_interpreter_and_loads_no_compiler_of_graphs(interpreted: dict[str, Any]) -> None:
    """Importing torch._dynamo would take a second of every first fit."""
    assert interpreted["starts"] and not interpreted["dynamo"]


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_the_kernels_compile_for_gpus(kernel: str, capability: int, monkeypatch: Any, tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does. Small tiles compile fast."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tokenprobe.probe.heads import fused_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(fused_kernels, kernel)
    sizes = {"WIDTH": 64, "TILE_X": 16, "TILE_N": 16, "TILE_D": 32}
    pointers = {"scale_ptr": "*fp32", "mean_ptr": "*fp32", "lse_ptr": "*fp32", "h_ptr": "*fp32", "g_ptr": "*fp32"}
    signature = {
        name: "constexpr" if name in sizes else pointers.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    constants = {(index,): sizes[name] for index, name in enumerate(function.arg_names) if name in sizes}
    compiled = triton.compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"] and "mma" in compiled.asm["ptx"]


def test_where_triton_cannot_start_one_line_says_so_once() -> None:
    code = "from tokenprobe.probe.heads import fused; assert [fused.starts() for _ in range(3)] == [False] * 3"
    said = run("-c", code, CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="0").stderr
    assert said.count("\n") == 1
    assert said.startswith("attention runs unfused, which is slower: Triton does not start (")


def test_tokens_on_a_gpu_are_fused_where_triton_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that claim to be on a GPU ask the same, so an estimate takes the path of the real step."""
    starts = True
    monkeypatch.setattr(fused, "starts", lambda: starts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))

    def can_fuse(device: str = "cuda:0", n_tokens: int = 7, types: str = "float32 float32", **grad: bool) -> bool:
        of_x, of_u = (getattr(torch, name) for name in types.split())
        with Shadows(torch.device(device)):
            return fused.can_fuse(torch.empty(2, n_tokens, 8, dtype=of_x, **grad), torch.empty(1, 1, 3, 8, dtype=of_u))

    assert can_fuse() and can_fuse(types="float16 float16") and can_fuse(n_tokens=fused.MOST_TOKENS)
    assert not can_fuse("cpu") and not can_fuse(n_tokens=fused.MOST_TOKENS + 1) and not can_fuse(requires_grad=True)
    assert not can_fuse(types="float64 float64") and not can_fuse(types="float16 float32")
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


@needs_triton
@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_fit_into_registers_and_shared_memory(monkeypatch: pytest.MonkeyPatch, itemsize: int) -> None:
    from tokenprobe.probe.heads import fused_launch

    for room in (99 * 2**10, 163 * 2**10, 227 * 2**10):  # of GPUs of compute capability 8.9, 8.0 and 9.0
        monkeypatch.setattr(fused_launch, "SHARED_BYTES", room)
        for n_tokens in (1, 49, 196, 261, 729, fused.MOST_TOKENS):
            for n_queries, dim in ((1, 8), (32, 96), (2048, 768)):
                x = torch.empty(1, n_tokens, dim, dtype={2: torch.bfloat16, 4: torch.float32}[itemsize], device="meta")
                for n_factors in (1, 2):
                    tiles = fused_launch.choose_tiles(x, n_queries, n_factors)
                    assert all(size >= 16 and size & (size - 1) == 0 for size in tiles[:3])
                    assert tiles.tokens >= n_tokens and tiles.stages >= 1
                    assert prod(tiles[:2]) * n_factors <= 256 * 32 * 128
                    rows = n_factors * tiles.queries + tiles.tokens
                    assert rows * tiles.width * itemsize * tiles.stages <= room


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("sizes", "shared", "normed"),
    [
        ((9, 196, 768, 4, 32), True, False),
        ((9, 196, 768, 3, 16), True, True),
        ((5, 197, 100, 1, 130), True, True),
        ((5, 7, 8, 1, 3), True, False),
        ((3, 65, 384, 2, 33), True, False),
        ((3, 577, 1024, 1, 40), True, False),
        ((2, 1024, 384, 1, 20), True, True),
        ((9, 196, 768, 5, 1), False, True),
        ((3, 196, 384, 1, 196), False, False),
    ],
)
def test_on_a_gpu_it_gives_the_formula_in_float64(
    sizes: tuple[int, ...], shared: bool, normed: bool, dtype: str
) -> None:
    case = Case(*sizes, shared, normed, dtype)
    x, u, _, _ = case.tensors("cuda")
    assert fused.can_fuse(x, u)
    assert max(fused_kit.errors(case, "cuda")) < TOLERANCE[dtype]


@pytest.mark.gpu
@on_a_gpu
def test_on_a_gpu_folded_attention_is_fused_and_keeps_no_map() -> None:
    case = Case(64, 196, 768, 8, 32, True, False, "bfloat16")
    x, u, g, _ = case.tensors("cuda")
    kept = []
    for function in (folded.attend_unfused, folded.attend):
        before = torch.cuda.memory_allocated()
        z = function(x, u)
        kept.append(torch.cuda.memory_allocated() - before - z.nbytes)
        z.backward(g.to(z.dtype))
        del z
    maps_bytes = 2 * 64 * 256 * 196
    assert kept[0] >= maps_bytes and kept[1] < maps_bytes / 10


@pytest.mark.gpu
@on_a_gpu
def test_on_a_gpu_offsets_beyond_31_bits_are_right() -> None:
    """z of 2.4 thousand million numbers: the last images and queries of it."""
    x = torch.randn(600, 16, 1024, device="cuda", dtype=torch.bfloat16)
    u = torch.randn(1, 1, 4000, 1024, device="cuda", dtype=torch.bfloat16) / 32
    z = fused.attend(x, u)[0]
    for image in (0, -1):
        expected = folded.attend_unfused(x[image][None].double(), u.double())[0, 0]
        assert fused_kit.error(z[image, 0], expected) < TOLERANCE["bfloat16"]
