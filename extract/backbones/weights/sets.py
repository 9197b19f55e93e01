"""Choice of the backbone's weights among all weights of a file.

A file may hold several networks, and some of them twice: the trained weights and their average. Candidates are prefixes
followed by names of the backbone. The candidate with most of the backbone's names wins. Ties go to the one with most of
its shapes, then to the first by `RANKS`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from ....errors import InputError, unknown_name
from .files import Checkpoint

Weights = Mapping[str, Tensor]

INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that torch.compile, FSDP and activation checkpointing insert anywhere in a name."""
CHUNK = re.compile(r"(^|\.)blocks\.\d+\.(?=\d+\.)")
"""DINOv2 trains blocks in chunks; the second number of "blocks.1.7." counts over all blocks."""
AVERAGES = ("ema", "average", "averaged", "avg", "swa", "teacher", "target")
LEFT_FOR_LAST = ("student", "momentum", "k")
RANKS = dict.fromkeys(AVERAGES, -1) | dict.fromkeys(LEFT_FOR_LAST, 1)
"""Ranks of words in a prefix. An average comes before the weights it averages, as in timm, DINO and I-JEPA. Of MoCo's
two encoders the trained one comes first, as its authors do."""


@dataclass(frozen=True)
class Choice:
    """The part of a file that is the backbone's.

    Attributes:
        prefix: beginning of its names, such as "teacher.backbone.".
        weights: all weights of the file by name, without the parts that module wrappers insert.
        others: prefixes of other parts that fit as well.
    """

    prefix: str
    weights: dict[str, Tensor]
    others: Sequence[str]

    def part(self) -> dict[str, Tensor]:
        """Return the backbone's part under the backbone's names."""
        return _behind(self.weights, self.prefix)


def choose_weights(
    checkpoint: Checkpoint, own: Weights, convert: Callable[[Weights], Weights], key: str | None = None
) -> Choice:
    """Find the backbone's part of a file.

    Args:
        checkpoint: content of the file.
        own: the backbone's weights.
        convert: conversion from another training code's names to the backbone's.
        key: key in the file or prefix of names, such as "model_ema"; only weights after it count.

    Raises:
        InputError: no weights follow the key, or several parts fit equally well.
    """
    weights = _unwrapped(checkpoint.weights, own)
    behind = {name: tensor for name, tensor in weights.items() if key is None or f".{key}." in f".{name}"}
    if not behind:
        known = [prefix.strip(".") for prefix, _ in _counted(weights, own).most_common() if prefix]
        raise unknown_name(f"key in checkpoint {str(checkpoint.path)!r}", str(key), known)
    n_names = _counted(behind, own)
    fitting = [prefix for prefix, n in n_names.items() if n == max(n_names.values())]
    if not fitting or n_names[fitting[0]] < len(own):  # names that a conversion changes
        fitting = _fitting_once_converted(behind, [*fitting, *_common_prefixes(behind, checkpoint.sets)], own, convert)
    n_shapes = {prefix: _n_shapes(behind, prefix, own) for prefix in fitting}
    best = min(fitting, key=lambda prefix: (-n_shapes[prefix], _rank(prefix)))
    equals = [each for each in fitting if (n_shapes[each], _rank(each)) == (n_shapes[best], _rank(best))]
    if len(equals) > 1:
        named = " and ".join(repr(prefix.strip(".")) for prefix in equals)
        raise InputError(
            f"checkpoint {str(checkpoint.path)!r} has the backbone's weights more than once, under {named}; choose one "
            "with --checkpoint-key"
        )
    return Choice(best, weights, [each for each in fitting if each != best and n_shapes[each] == n_shapes[best]])


def _unwrapped(weights: Weights, own: Collection[str]) -> dict[str, Tensor]:
    """Return the weights by name, without the parts that module wrappers insert."""
    renamed = {name: INSIDE.sub("", name) for name in weights}
    if not any(CHUNK.search(name) for name in own):
        renamed = {name: CHUNK.sub(r"\1blocks.", new) for name, new in renamed.items()}
    n_of = Counter(renamed.values())
    return {(new if n_of[new] == 1 else name): weights[name] for name, new in renamed.items()}


def _counted(weights: Weights, own: Collection[str]) -> Counter[str]:
    """Count the backbone's names after each prefix."""
    return Counter(name[:start] for name in weights for start in _starts(name) if name[start:] in own)


def _starts(name: str) -> Iterable[int]:
    """Return the positions at which the parts of a name begin."""
    return (0, *(dot.end() for dot in re.finditer(r"\.", name)))


def _common_prefixes(weights: Weights, sets: Sequence[str]) -> Iterator[str]:
    """Yield, for each dictionary of the file, the longest common prefix of its names, up to a dot."""
    for prefix in sets:
        names = [name for name in weights if name.startswith(INSIDE.sub("", prefix))]
        shared = takewhile(
            lambda parts: len({*parts}) == 1, zip(*(name.split(".")[:-1] for name in names), strict=False)
        )
        yield "".join(f"{parts[0]}." for parts in shared)


def _fitting_once_converted(
    weights: Weights, prefixes: Sequence[str], own: Collection[str], convert: Callable[[Weights], Weights]
) -> list[str]:
    """Return the prefixes, or parts of them, whose weights have most of the backbone's names after conversion."""
    candidates = dict.fromkeys(each[:start] for each in prefixes for start in reversed([*_starts(each)]))
    n_names = {prefix: _n_converted(_behind(weights, prefix), own, convert) for prefix in candidates}
    most = max(n_names.values())
    fitting = [prefix for prefix, n in n_names.items() if n == most]
    longest = [each for each in fitting if not any(other.startswith(each) and other != each for other in fitting)]
    return longest if most else longest[:1]


def _n_converted(part: Weights, own: Collection[str], convert: Callable[[Weights], Weights]) -> int:
    try:
        converted = convert(part)
    except InputError:  # weights of another kind; the error is raised again if these are chosen
        return 0
    return sum(name in converted for name in own)


def _n_shapes(weights: Weights, prefix: str, own: Weights) -> int:
    return sum(prefix + name in weights and weights[prefix + name].shape == own[name].shape for name in own)


def _behind(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _rank(prefix: str) -> int:
    """Return the rank of a prefix: that of its last word with a rank."""
    ranks = [RANKS[word] for word in re.split(r"[._]", prefix) if word in RANKS]
    return ranks[-1] if ranks else 0
