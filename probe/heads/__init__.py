"""Heads: a pooling turns the tokens of an image into one vector, and `Head` classifies it, for many cells at once.

Each pooling has its own file: formula, settings, parameters, `pool`. A new one also needs a line in `POOLINGS`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Generator

from ...errors import InputError, unknown_name
from .abmilp import AbMILP
from .aim import AIMPooling
from .alf import AttentiveLayerFusion
from .cae import CAEPooling
from .cait import CaiTPooling
from .cbam import CBAM
from .clip import CLIPPooling
from .coca import CoCaPooling
from .dinovit import DINOViTPooling
from .dolg import DOLGPooling
from .ep import EfficientProbing
from .esimpool import ESimPool
from .head import Head
from .jepa import JEPAPooling
from .linear import LinearPooling
from .own import checked, imported, installed, names_code
from .pooling import Pooling
from .siglip import SigLIPPooling
from .simpool import SimPool

__all__ = ["POOLINGS", "Head", "Pooling", "build_pooling", "find_pooling", "register"]

POOLINGS: dict[str, type[Pooling]] = {
    "ep": EfficientProbing,
    "abmilp": AbMILP,
    "simpool": SimPool,
    "esimpool": ESimPool,
    "clip": CLIPPooling,
    "siglip": SigLIPPooling,
    "aim": AIMPooling,
    "cbam": CBAM,
    "coca": CoCaPooling,
    "cait": CaiTPooling,
    "dinovit": DINOViTPooling,
    "jepa": JEPAPooling,
    "dolg": DOLGPooling,
    "cae": CAEPooling,
    "alf": AttentiveLayerFusion,
    "linear": LinearPooling,
}


def register(kind: type[Pooling]) -> type[Pooling]:
    """Add a pooling under its own `name`, for this process; also a decorator. The same class may come again.

    Raises:
        InputError: it is no pooling, or another one has the name.
    """
    name = str(getattr(kind, "name", kind))
    if not name.isidentifier():
        raise InputError(f"head {name!r}: the name of {kind!r} must have letters, digits and _ alone")
    if POOLINGS.get(name, kind) is not kind:
        raise InputError(f"head {name!r} is {POOLINGS[name].__name__} already; give {kind.__name__} another name")
    POOLINGS[name] = checked(kind, name)
    return kind


def find_pooling(name: str, *, imports: bool = False) -> type[Pooling]:
    """Return a pooling of this package, of `register`, of an installed package, or by MODULE:CLASS.

    Args:
        name: its name.
        imports: whether a name MODULE:CLASS that this process does not know yet may import the module.

    Raises:
        InputError: no such pooling, or it must be imported and may not be.
    """
    if name not in POOLINGS and names_code(name):
        if not imports:
            raise InputError(
                f"head {name!r} runs code of the module {name.partition(':')[0]!r}; if you know that code and trust "
                "it, give --trust-code (in Python: trust_code=True)"
            )
        POOLINGS[name] = imported(name)
    elif name not in POOLINGS:
        kind = installed(name)
        if kind is None:
            raise unknown_name("head", name, POOLINGS)
        POOLINGS[name] = kind
    return POOLINGS[name]


def build_pooling(
    name: str,
    *,
    dim: int,
    grid: tuple[int, int],
    n_layers: int = 1,
    cells: int | None = None,
    generators: Sequence[Generator | None] | None = None,
    draw: bool = True,
    **settings: Any,
) -> Pooling:
    """Build a pooling: a module from tokens (B, N, dim) to (B, out_dim).

    Args:
        name: a name in `POOLINGS`, or of an installed package's pooling.
        dim: width of the tokens.
        grid: (height, width) of the patch tokens.
        n_layers: layers whose tokens stand side by side, L·N tokens.
        cells: stack H cells; the output is then (B, H, out_dim).
        generators: one per cell, for the initial weights; torch's global one if None.
        draw: False checks the settings and draws no weights: the pooling only knows its `inputs` and `out_dim`.
        settings: settings of the pooling; its `defaults` names them.

    Raises:
        InputError: unknown name or setting, or a setting that does not fit `dim`, `grid` or `n_layers`.
    """
    kind = find_pooling(name)
    for key in settings:
        if key not in kind.defaults:
            raise unknown_name(f"setting of head {name!r}", key, kind.defaults)
    return kind(
        replace(kind.settings, **settings),
        dim=dim,
        grid=grid,
        n_layers=n_layers,
        cells=cells,
        generators=generators,
        draw=draw,
    )
