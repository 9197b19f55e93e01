"""standin"""
from typing import NamedTuple
class StepMemory(NamedTuple):
    kept: int
    working: int
def available_memory(device): return 10**10
def step_memory(spec, shape, n_classes, n_cells, **k): return StepMemory(1000*n_cells, 1000*n_cells)
