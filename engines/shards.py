"""`--shard I/N`: a fixed part of the units, for schedulers that run N commands which know nothing of one another."""

from collections.abc import Sequence
from typing import TypeVar

from ..errors import InputError

T = TypeVar("T")


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return (I, N) of "I/N", counted from 0; (0, 1) if there are no shards.

    Raises:
        InputError: the text has another form.
    """
    if text is None:
        return 0, 1
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"shard {text!r}: expected I/N with I from 0 to N - 1, such as 0/8 for the first of eight")
    return int(number), int(count)


def share_of(units: Sequence[T], shard: str | None) -> list[T]:
    """Return the units of a shard: every Nth. Without a shard, all of them."""
    number, count = parse_shard(shard)
    return list(units[number::count])
