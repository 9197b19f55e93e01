"""The kernels: by Triton's interpreter on the CPU, and by its compiler for GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import step_kit
from .step_kit import LOGITS, OPTIMIZERS

SIZES = {"N_CLASSES": 1000, "BLOCK": 1024, "MOMENTUM": 0.9}
POINTERS = {"labels_ptr": "*i64", "logits_ptr": "*bf16"}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """Return the results of all cases from a process of its own: Triton reads the variable when it is imported."""
    pytest.importorskip("triton")
    command, environment = [sys.executable, step_kit.__file__], os.environ | {"TRITON_INTERPRET": "1"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(shown)
    return found


@pytest.mark.parametrize("index", range(len(LOGITS)), ids=["-".join(map(str, case)) for case in LOGITS])
def test_losses_and_gradients_are_those_in_float64(interpreted: dict[str, Any], index: int) -> None:
    """Losses of about ten, gradients up to 2 / 7: both made in float32, the gradient rounded to the logits' type."""
    of_loss, of_gradient, typed = interpreted["logits"][index]
    assert of_loss < 1e-5 and of_gradient < (1e-6 if LOGITS[index][0] == "float32" else 2**-12) and typed


def test_a_cell_without_finite_logits_leaves_its_neighbours_bit_equal(interpreted: dict[str, Any]) -> None:
    assert interpreted["lost"] == [True] * 3


@pytest.mark.parametrize("index", range(len(OPTIMIZERS)), ids=OPTIMIZERS)
def test_steps_are_those_in_float64(interpreted: dict[str, Any], index: int) -> None:
    assert len(interpreted["optimizers"][index]) == 6
    assert all(error < 3e-7 for error in interpreted["optimizers"][index])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["cross_entropy", "cross_entropy_backward", "momentum_step"])
def test_the_kernels_compile_for_gpus(kernel: str, capability: int, monkeypatch: Any, tmp_path: Path) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from tokenprobe.probe.training import step_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(step_kernels, kernel)
    signature = {
        name: "constexpr" if name in SIZES else POINTERS.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    constants = {(index,): SIZES[name] for index, name in enumerate(function.arg_names) if name in SIZES}
    compiled = triton.compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", capability, 32))
    assert f"sm_{capability}" in compiled.asm["ptx"]
