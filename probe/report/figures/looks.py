"""The colour, marker and dashes of each head: a function of the head alone, so the same in every figure and run."""

from collections.abc import Mapping
from math import log2
from typing import Any, NamedTuple
from zlib import crc32

from matplotlib.colors import to_hex, to_rgb

from ...grid.specs import HEADS
from ..head_names import WORDS

COLOURS: Mapping[str, str] = {
    "ep": "#0072B2",
    "linear": "#D55E00",
    "knn": "#009E73",
    "ncm": "#DDCC77",
    "ridge": "#CC79A7",
    "logreg": "#E69F00",
    "aim": "#332288",
    "abmilp": "#882255",
    "simpool": "#44AA99",
    "esimpool": "#999933",
    "clip": "#000000",
    "siglip": "#56B4E9",
    "cbam": "#AA4499",
    "coca": "#661100",
    "cait": "#6699CC",
    "dinovit": "#117733",
    "jepa": "#888888",
    "dolg": "#B8A030",
    "cae": "#CC6677",
    "alf": "#7F3C8D",
}
"""One colour per kind of head: Okabe and Ito's palette for the usual ones, then Tol's. Colour-blind readers can tell
those of either apart; markers and dashes tell the others apart, also in grey."""
MARKERS = "osD^vPX<>ph*d"
STEP = 6
"""How far the markers of variants are apart: so the usual variants do not share those of the usual kinds."""
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
SHADES = (0.0, -0.35, 0.55, 0.3, -0.55)
"""How far the colour of a kind goes towards black (below 0) or white, by variant."""


class Look(NamedTuple):
    """The look of a head.

    Attributes:
        color: as a hexadecimal number.
        marker: of its points.
        linestyle: dashes of its lines.
    """

    color: str
    marker: str
    linestyle: Any

    @property
    def points(self) -> dict[str, Any]:
        """Options of points without a line."""
        return {"color": self.color, "marker": self.marker, "linestyle": "none"}


def look_of(spec: str) -> Look:
    """Return the look of a head, from its spec such as "ep:queries=32".

    A number behind it, as in "ep:queries=32 #1", gives another training of the same head another look.
    """
    spec, _, number = spec.partition(" #")
    name, _, config = spec.partition(":")
    known = list(COLOURS)
    kind = known.index(name) if name in COLOURS else crc32(name.encode()) % len(known)
    variant = (_variant(name, config) + int(number or 0)) % len(SHADES)
    return Look(
        _shaded(COLOURS[known[kind]], SHADES[variant]), MARKERS[(kind + STEP * variant) % len(MARKERS)], DASHES[variant]
    )


def _variant(name: str, config: str) -> int:
    """Number the settings of one kind of head: 0 is the default."""
    first, _, rest = config.partition(",")
    key, _, value = first.partition("=")
    default = HEADS[name].defaults.get(key) if name in HEADS else None
    number = crc32(rest.encode()) if rest else 0
    if isinstance(default, int) and default > 0 and value.isdigit() and int(value) > 0:
        number += round(log2(int(value) / default))
    elif isinstance(words := WORDS.get(key), Mapping) and {value, str(default)} <= words.keys():
        number += list(words).index(value) - list(words).index(str(default))
    elif value != str(default):
        number += crc32(first.encode()) if first else 0
    return number % len(SHADES)


def _shaded(colour: str, amount: float) -> str:
    end = 0.0 if amount < 0 else 1.0
    red, green, blue = ((1 - abs(amount)) * part + abs(amount) * end for part in to_rgb(colour))
    return to_hex((red, green, blue))
