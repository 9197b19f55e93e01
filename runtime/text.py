"""Numbers, sizes and times in words, for people. Foreign text made safe for terminals, files and spreadsheets."""

import json
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")
SECONDS_PER_MINUTE, MINUTES_PER_HOUR = 60, 60


def size_text(n_bytes: float) -> str:
    """Write a size with three significant digits and a decimal unit: "512 B", "9.87 GB", "1.00 TB".

    Whole bytes below 1 kB have no decimals. The largest unit is the petabyte.
    """
    size, unit = float(round(n_bytes)), 0
    while size >= 999.5 and unit < len(SIZE_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    if unit == 0 or size >= 99.95:
        return f"{size:.0f} {SIZE_UNITS[unit]}"
    return f"{size:.{1 if size >= 9.995 else 2}f} {SIZE_UNITS[unit]}"


def printable(text: str) -> str:
    r"""Escape the characters of a text that would act on a terminal: line feeds, escape codes, changes of direction.

    Any text from a file may hold such characters: class names, image ids. They are written as in Python's `repr`, such
    as `\x1b` and `\n`. rich also interprets `[bold]`: give its tables and lines `rich.text.Text(printable(text))`.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def utf8_text(path: str | Path) -> str:
    r"""Return a path as text that can be written as UTF-8: other bytes in it become escapes such as `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def csv_cell(text: str) -> str:
    """Return a text as a cell of a CSV file that no spreadsheet runs as a formula.

    A text that begins with =, +, -, @, a tab or a carriage return gets an apostrophe in front, which marks it as text.
    """
    return f"'{text}" if text.startswith(FORMULA_BEGINNINGS) else text


def time_text(seconds: float) -> str:
    """Write a duration: "95 s" below 2 minutes, "95 min" below 2 hours, then "3 h 12 min"."""
    whole_seconds, minutes = round(seconds), round(seconds / SECONDS_PER_MINUTE)
    if whole_seconds < 2 * SECONDS_PER_MINUTE:
        return f"{whole_seconds} s"
    if minutes < 2 * MINUTES_PER_HOUR:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, MINUTES_PER_HOUR)
    return f"{hours} h {minutes} min"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return the noun for a number: `one` for 1, else `many`, which defaults to `one` with an "s"."""
    return one if n == 1 else many or f"{one}s"


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun: "1 image", "1,281,167 images"."""
    return f"{n:,} {plural(n, one, many)}"


def in_words(names: Sequence[str]) -> str:
    """Return names as in a sentence: "a", "a and b", "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def json_text(value: Any) -> str:
    """Return a value as JSON, for scripts. Numbers that JSON lacks, such as NaN, become null."""
    return json.dumps(json_value(value), indent=2, allow_nan=False)


def json_value(value: Any) -> Any:
    """Return a value with lists and texts as keys, and with null for numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
