"""The kernels: by Triton's interpreter on the CPU, by its compiler for GPUs, and, where there is one, on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenprobe.probe.heads import folded, fused

from . import fused_kit
from .fused_kit import INTERPRETED, Case

TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.5e-2}
"""Relative to a norm: some roundings of 2^-24, 2^-11 and 2^-8 in a row."""
IDS = ["-".join(map(str, case)) for case in INTERPRETED]


def all_below(tolerance: float, *errors: float) -> bool:
    """Return whether all errors are; NaN is not."""
    return all(error < tolerance for error in errors)


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Return the results of all cases from a process of its own: Triton reads the variable when it is imported."""
    pytest.importorskip("triton")
    command, environment = [sys.executable, fused_kit.__file__], os.environ | {"TRITON_INTERPRET": "1"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(shown)
    return found


@pytest.mark.parametrize("index", range(len(INTERPRETED)), ids=IDS)
def test_the_kernels_give_the_formula_in_float64(interpreted: dict[str, Any], index: int) -> None:
    """z, the log-sum-exp, and the gradient of the queries from both."""
    assert all_below(TOLERANCE[INTERPRETED[index].dtype], *interpreted["errors"][index])


@pytest.mark.parametrize("index", range(len(INTERPRETED)), ids=IDS)
def test_they_give_the_results_and_types_of_torchs_own_operations(interpreted: dict[str, Any], index: int) -> None:
    of_z, of_gradient, alike = interpreted["against_unfused"][index]
    assert all_below(2 * TOLERANCE[INTERPRETED[index].dtype], of_z, of_gradient) and alike


def test_scores_far_below_zero_overflow_nowhere(interpreted: dict[str, Any]) -> None:
    """Scores around −300 are rounded to 3e-5, and so are the maps."""
    assert all_below(1e-4, *interpreted["of_low_scores"])


def test_parts_of_the_queries_give_the_gradient_of_all(interpreted: dict[str, Any]) -> None:
    assert interpreted["in_parts"] == [True] * 6


def test_a_cell_that_is_lost_leaves_the_others_alone(interpreted: dict[str, Any]) -> None:
    assert interpreted["with_a_lost_cell"] == [True] * 6


def test_the_operation_starts_in_the_interpreter_and_loads_no_compiler_of_graphs(interpreted: dict[str, Any]) -> None:
    """Importing torch._dynamo would take a second of every first fit."""
    assert interpreted["starts"] and not interpreted["dynamo"]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_the_kernels_compile_for_gpus(kernel: str, capability: int, monkeypatch: Any, tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does. Small tiles compile fast."""
    triton = pytest.importorskip("triton")
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
        ((3, 261, 1024, 1, 40), True, False),
        ((2, 512, 384, 1, 20), True, True),
        ((9, 196, 768, 5, 1), False, True),
        ((3, 196, 384, 1, 196), False, False),
    ],
)
def test_on_a_gpu_it_gives_the_formula_in_float64(
    sizes: tuple[int, ...], shared: bool, normed: bool, dtype: str
) -> None:
    """In float32 sums over 1,024 channels round a few times more than those of the interpreter's cases."""
    case = Case(*sizes, shared, normed, dtype)
    x, u, _, _ = case.tensors("cuda")
    assert fused.can_fuse(x, u) == (dtype != "float32" and x.shape[1] <= fused.MOST_TOKENS)
    assert all_below(TOLERANCE[dtype] * (4 if dtype == "float32" else 1), *fused_kit.errors(case, "cuda"))


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
