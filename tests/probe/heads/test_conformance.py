"""Every pooling passes the suite that `tokenprobe.testing` offers, against its formula of formulas.py."""

from typing import Any

from tokenprobe.probe.heads import POOLINGS
from tokenprobe.testing.poolings import PoolingConformance

from .facts import KNOWN
from .formulas import DIM, FORMULAS, GRID


def suite(name: str) -> type[PoolingConformance]:
    """Return the tests of a pooling."""
    facts, formula = KNOWN[name], FORMULAS[name]

    def batch_formula(self: PoolingConformance, *arguments: Any) -> Any:
        return formula(*arguments)

    own: dict[str, Any] = {
        "pooling": POOLINGS[name],
        "cases": facts.cases,
        "dim": DIM,
        "grid": GRID,
        "maps_sum": facts.maps_sum,
        "bfloat16_gradient": facts.bfloat16_gradient,
        "batch_formula": batch_formula,
    }
    return type(f"Test_{name}", (PoolingConformance,), own)


globals().update({f"Test_{name}": suite(name) for name in KNOWN if name in FORMULAS})
