"""Patterns that stand for many files: `train-{00..15}.tar`, `{a,b}.tar`, `train-*.tar`."""

import glob
import os
import re
from collections.abc import Sequence
from itertools import product
from math import prod

from ...errors import InputError, MissingError

MAX_FILES = 10**6
RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


def find_tars(pattern: str) -> list[str]:
    """Return the files that match a pattern, in its order; files of a "*" are sorted by name.

    Raises:
        InputError: a range runs downwards, or the pattern stands for more than a million files.
        MissingError: one of the files does not exist.
    """
    tars = []
    for name in expand_braces(os.path.expanduser(pattern)):
        named = sorted(glob.glob(name)) if "*" in name else [name]
        found = [path for path in named if os.path.exists(path) and not os.path.isdir(path)]
        if not found:
            raise MissingError(f"no file at {name!r}; expected local tars at {pattern!r}")
        tars += found
    return tars


def expand_braces(pattern: str) -> list[str]:
    """Expand "a{00..15}b{x,y}" to its texts; numbers keep the width of the first.

    Raises:
        InputError: a range runs downwards, or there are more than a million texts.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if place % 2 == 0 else _choices(part, pattern) for place, part in enumerate(parts)]
    n_files = prod(map(len, choices))
    if n_files > MAX_FILES:
        raise InputError(f"{pattern!r} stands for {n_files:,} files; expected at most {MAX_FILES:,}")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(part: str, pattern: str) -> Sequence[str]:
    numbers = RANGE.fullmatch(part)
    if numbers is None:
        return part.split(",")
    first, last = numbers.groups()
    if int(first) > int(last):
        raise InputError(f"{{{part}}} in {pattern!r} runs downwards and stands for no file; write {{{last}..{first}}}")
    if int(last) - int(first) >= MAX_FILES:
        raise InputError(f"{{{part}}} in {pattern!r} stands for more than {MAX_FILES:,} files")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
