"""The kernels: by Triton's interpreter on the CPU, by its compiler for GPUs, and, where there is one, on a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle, product
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


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("index", range(len(INTERPRETED)), ids=IDS)
def test_the_kernels_give_the_formula_in_float64(interpreted: dict[str, Any], index: int, described: bool) -> None:
    """z, the log-sum-exp, and the gradient of the queries from both."""
    errors = interpreted["errors" if described else "errors_without_descriptors"][index]
    assert all_below(TOLERANCE[INTERPRETED[index].dtype], *errors)


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


@pytest.mark.parametrize("parts", [(16,), (32, 16), (64, 32, 16)])
@pytest.mark.parametrize("capability", [80, 89, 90])
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_the_kernels_compile_for_gpus(
    kernel: str, capability: int, parts: tuple[int, ...], monkeypatch: Any, tmp_path: Path
) -> None:
    """The interpreter takes more than the compiler does. Tokens are copied by the hardware, or 16 bytes at a time."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tokenprobe.probe.heads import fused_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function, described = getattr(fused_kernels, kernel), capability >= 90
    sizes = {"N_TOKENS": sum(parts) - 3, "WIDTH": 64, "PARTS": parts, "TILE_X": 64, "TILE_D": 32}
    values: dict[str, Any] = {**sizes, "DESCRIBED": described, **{f"x{index}": None for index in range(len(parts), 3)}}
    rows = {**{f"x{index}": n_tokens for index, n_tokens in enumerate(parts)}, "u": 64, "z": 64, "g": 64}
    signature = {}
    for name in function.arg_names:
        if name in values:
            signature[name] = "constexpr"
        elif name in rows:
            signature[name] = f"tensordesc<bf16[1, {rows[name]}, 32]>" if described else "*bf16"
        else:
            signature[name] = ("*bf16" if name == "ds_ptr" else "*fp32") if name.endswith("_ptr") else "i32"
    constants = {(index,): values[name] for index, name in enumerate(function.arg_names) if name in values}
    of_16 = [
        name for name in function.arg_names if name in rows or name in ("u_image", "u_query", "g_image", "g_query")
    ]
    places = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in of_16 if name not in values}
    source = ASTSource(function, signature, constants, None if described else places)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"] and "mma" in compiled.asm["ptx"]
    copies = "cp.async.bulk.tensor" if described else "cp.async.cg.shared.global [ %r"
    assert copies in compiled.asm["ptx"] and "ld.global.b16" not in compiled.asm["ptx"]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def cases_on_a_gpu() -> Iterator[Case]:
    """Yield every number of tokens with every number of queries; widths and the rest take turns."""
    widths, kinds = (
        cycle([192, 8, 768, 72, 1024]),
        cycle(product([True, False], [False, True], ["bfloat16", "float16"])),
    )
    for n_tokens in (1, 16, 49, 50, 196, 197, 257, 261, 512):
        for n_cells, n_maps in ((1, 1), (3, 1), (1, 32), (2, 100)):
            yield Case(3, n_tokens, next(widths), n_cells, n_maps, *next(kinds))
        next(kinds)  # four of eight each time: so that each number of queries meets all
    yield Case(9, 196, 768, 4, 32, True, False, "bfloat16")
    yield Case(9, 196, 768, 3, 32, True, True, "bfloat16")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("case", [*cases_on_a_gpu()], ids=lambda case: "-".join(map(str, case)))
def test_on_a_gpu_it_gives_the_formula_in_float64(case: Case) -> None:
    assert fused.can_fuse(*case.tensors("cuda")[:2])
    assert all_below(TOLERANCE[case.dtype], *fused_kit.errors(case, "cuda"))


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
