"""Shapes are found without torch's compiler, and torch is afterwards as before. Each case has a process of its own."""

import subprocess
import sys

import pytest

CASES = {
    "shapes need no compiler": """
assert without_compiler(shape) == (2, 3)
assert not loaded() and "_dynamo" not in vars(torch)
""",
    "afterwards torch marks its functions itself": """
without_compiler(shape)
shape()
import torch._dynamo, sympy
assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__file__ and sympy.Symbol("x") + 1
assert torch.compile(lambda x: x + 1, backend="eager", fullgraph=True)(torch.ones(2)).tolist() == [2, 2]
""",
    "who needs the compiler starts again and gets it": """
def find():
    assert shape() == (2, 3)
    try:
        import torch._dynamo.config
    except Exception:
        return "hidden"
    return torch._dynamo.config.recompile_limit

assert without_compiler(find) > 0
assert torch._dynamo.__file__
""",
    "who needs sympy gets it": """
def find():
    from sympy import Symbol
    return Symbol("x") + 1

assert str(without_compiler(find)) == "x + 1"
""",
    "who needs another function for symbols gets it": """
def find():
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    return ShapeEnv.__name__

assert without_compiler(find) == "ShapeEnv"
""",
    "a size is no symbol, and questions about symbols have the answers for numbers": """
def find():
    import sympy
    from torch.fx.experimental.symbolic_shapes import guard_or_false, guard_int, sym_and, sym_eq, sym_or
    assert not loaded()
    assert not isinstance(3, sympy.Basic)
    return guard_or_false(2 == 2), guard_int(3), sym_and(True, 0), sym_or(0, 1), sym_eq(2, 3)

assert without_compiler(find) == (True, 3, False, True, False)
""",
    "an error of the function comes out, and nothing stays": """
def find():
    shape()
    raise ValueError("so it failed")

try:
    without_compiler(find)
except ValueError as error:
    assert str(error) == "so it failed"
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
""",
    "calls nest": """
assert without_compiler(lambda: [without_compiler(shape), shape()]) == [(2, 3)] * 2
assert not loaded()
""",
}
BEFORE = """
import sys
import torch
from tokenprobe.runtime.compiler import without_compiler

def shape():
    return tuple((torch.empty(2, 1, device="meta") * torch.empty(3, device="meta")).shape)

def loaded():
    return [name for name in ("torch._dynamo", "sympy") if name in sys.modules and sys.modules[name].__spec__]

assert not loaded()
"""


@pytest.mark.parametrize("case", CASES)
def test_the_compiler(case: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE + CASES[case]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
