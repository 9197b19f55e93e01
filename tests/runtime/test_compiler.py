"""Shapes are found without torch's compiler, and torch is afterwards as before. Each case has a process of its own."""

import subprocess
import sys

import pytest

CASES = {
    "shapes need no compiler": """
with without_compiler():
    assert shape() == (2, 3)
assert "torch._dynamo" not in sys.modules and "_dynamo" not in vars(torch)
""",
    "afterwards torch marks its functions itself": """
with without_compiler():
    shape()
shape()
import torch._dynamo
assert torch._dynamo.is_dynamo_supported() in (True, False)
assert sys.modules["torch._dynamo"] is torch._dynamo and torch._dynamo.__file__
""",
    "who needs the compiler gets it": """
with without_compiler():
    shape()
    import torch._dynamo.config
    assert torch._dynamo.config.recompile_limit > 0
    assert shape() == (2, 3)
assert sys.modules["torch._dynamo"].__file__
""",
    "a compiler that is loaded stays": """
import torch._dynamo
loaded = torch._dynamo
with without_compiler():
    assert sys.modules["torch._dynamo"] is loaded and shape() == (2, 3)
assert sys.modules["torch._dynamo"] is loaded is torch._dynamo
""",
    "blocks nest": """
with without_compiler():
    with without_compiler():
        shape()
    shape()
assert "torch._dynamo" not in sys.modules
""",
}
BEFORE = """
import sys
import torch
from tokenprobe.runtime.compiler import without_compiler

def shape():
    return tuple((torch.empty(2, 1, device="meta") * torch.empty(3, device="meta")).shape)

assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.parametrize("case", CASES)
def test_the_compiler(case: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE + CASES[case]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
