"""A fit loads what its first step needs, and no more. Each case has a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.probe.heads import POOLINGS
from tokenprobe.store import Store

from .kit import write_made

LATER = ["pandas", "pyarrow", "sklearn", "matplotlib", "timm", "triton"]
"""Loaded by the first row of results, by solvers, by figures, by another stage."""
NEVER = ["torch._dynamo", "sympy"]
AT_FIRST_STEP = """
import sys
from tokenprobe.probe.training.group import Group

make_step, found = Group._step, []

def loaded(names):
    # a stand-in has no origin
    return [name for name in names if name in sys.modules and vars(sys.modules[name]).get("__spec__")]

def noted_step(*arguments):
    make_step(*arguments)
    found.append(loaded({names!r}))

Group._step = noted_step
"""
RUN = """
from tokenprobe.cli import main
assert main({command!r}) == 0
assert found and not found[0], found[0]
assert not loaded({names!r}), loaded({names!r})
"""


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def command(store: Store, out: Path, *more: str) -> list[str]:
    heads = [flag for head in ("ep:queries=4", "siglip:heads=2", "linear") for flag in ("--head", head)]
    return ["fit", str(store.path), "-o", str(out), *heads, "--epochs", "2", "--batch-size", "16", "--lr", "1", *more]


def check(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_loads_neither_the_compiler_nor_tables(store: Store, tmp_path: Path) -> None:
    names = [*LATER, *NEVER]
    check(
        AT_FIRST_STEP.format(names=names)
        + RUN.format(command=command(store, tmp_path / "run", "--dry-run"), names=names)
    )


def test_a_first_fit_steps_before_it_loads_tables_and_never_loads_the_compiler(store: Store, tmp_path: Path) -> None:
    step = AT_FIRST_STEP.format(names=[*LATER, *NEVER])
    check(step + RUN.format(command=command(store, tmp_path / "run"), names=NEVER))


def test_the_memory_of_every_pooling_is_found_without_the_compiler() -> None:
    """Nor does torch load anything else meanwhile, which would keep a stand-in."""
    check(f"""
import sys
import torch
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.planning.memory import step_memory
from tokenprobe.probe.training.group import GroupSetup
from tokenprobe.probe.batches.token_shape import TokenShape

shape, device = TokenShape(grid=(4, 6), dim=96, n_prefix=2, embedding=96), torch.device("cpu")
before = set(sys.modules)
for name in {list(POOLINGS)!r}:
    for optimizer, precision, multi_label in (("lars", "float32", False), ("adamw", "bfloat16", True)):
        cell = Cell("s", LayerSet((1,)), parse_heads([name])[0], optimizer, 0.1, 0.1, "full", 0)
        step_memory([cell], GroupSetup(shape, 30, 300, device, precision, multi_label))
assert set(sys.modules) == before, set(sys.modules) - before
""")
