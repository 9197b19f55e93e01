"""standin"""
from typing import NamedTuple
class Passes(NamedTuple):
    passes: list
    notes: list
def make_passes(groups, limit, memory_of): return Passes([groups] if groups else [], [])
