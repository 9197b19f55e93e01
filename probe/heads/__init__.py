"""Heads: a pooling turns the tokens of an image into one vector, and `Head` classifies it, for many cells at once.

Each pooling has its own file: formula, settings, parameters, `pool`. A new one also needs a line in `POOLINGS`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Generator

from ...errors import unknown_name
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
from .pooling import Pooling
from .siglip import SigLIPPooling
from .simpool import SimPool

__all__ = ["POOLINGS", "Head", "Pooling", "build_pooling"]

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
        name: a name in `POOLINGS`.
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
    if name not in POOLINGS:
        raise unknown_name("head", name, POOLINGS)
    kind = POOLINGS[name]
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
