"""Names of heads for tables and figures: "EP, 32 queries" for `ep:queries=32`. A footnote gives the spec.

The first part is the head's own `title`. The table below has words for settings.
"""

from collections.abc import Mapping

from ..grid.specs import HEADS

WORDS: Mapping[str, str | tuple[str, str] | Mapping[str, str]] = {
    "queries": ("{} query", "{} queries"),
    "heads": ("{} head", "{} heads"),
    "d_out": "output 1/{} wide",
    "mlp_ratio": "MLP ratio {}",
    "tokens": "{} tokens",
    "k": "k = {}",
    "temperature": "T = {}",
    "dropout": "dropout {}",
    "norm": {"none": "no BatchNorm"},
    "pool": {
        "cls": "class token",
        "mean": "mean token",
        "cls+mean": "class and mean token",
        "max": "maximum",
        "embedding": "embedding",
    },
    "unit": {"true": "unit length", "false": "raw length"},
}
"""Words for a setting, for one and for several, or for each of its values. Others are shown as key = value."""


def head_name(name: str, config: str) -> str:
    """Return the readable name of a head. Heads that differ have names that differ.

    Args:
        name: the registry name, as the results hold it.
        config: the settings, as the results hold them: "queries=32,d_out=2".
    """
    if name not in HEADS:  # a run of a version with other heads
        return f"{name}:{config}" if config else name
    return ", ".join([HEADS[name].title, *(_words(*pair.split("=", 1)) for pair in filter(None, config.split(",")))])


def _words(key: str, value: str) -> str:
    words = WORDS.get(key)
    if isinstance(words, Mapping):
        words = words.get(value)
    if isinstance(words, tuple):
        words = f"{key} by default" if value == "0" else words[value != "1"]
    return f"{key} = {value}" if words is None else words.format(value)
