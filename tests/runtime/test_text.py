"""Sizes and times in words, and text made safe, case by case."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.runtime.text import counted, csv_cell, json_text, plural, printable, size_text, time_text, utf8_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (12.4, "12 B"),
        (999, "999 B"),
        (999.6, "1.00 kB"),
        (1000, "1.00 kB"),
        (1004, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (306_432, "306 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_340_000, "12.3 MB"),
        (9_874_000_000, "9.87 GB"),
        (387_973_120_000, "388 GB"),
        (10**12, "1.00 TB"),
        (5.25e15, "5.25 PB"),
        (7.5e18, "7500 PB"),
    ],
)
def test_a_size_has_three_digits_and_the_unit_that_fits(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text


def test_every_size_is_within_half_of_its_last_digit() -> None:
    power = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
    for n_bytes in np.logspace(3, 17.9, 3000):
        value, unit = size_text(n_bytes).split()
        assert re.fullmatch(r"\d\.\d\d|\d\d\.\d|\d\d\d", value), (n_bytes, value)
        assert abs(float(value) * power[unit] - n_bytes) <= 0.5001e-2 * n_bytes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (31, "31 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (120, "2 min"),
        (600, "10 min"),
        (7169, "119 min"),
        (7171, "2 h 0 min"),
        (7200, "2 h 0 min"),
        (11_520, "3 h 12 min"),
        (11_549, "3 h 12 min"),
        (11_551, "3 h 13 min"),
        (359_999, "100 h 0 min"),
    ],
)
def test_a_time_has_two_digits_or_more(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


@pytest.mark.parametrize(("n", "noun"), [(0, "images"), (1, "image"), (2, "images"), (1001, "images")])
def test_only_one_is_singular(n: int, noun: str) -> None:
    assert plural(n, "image") == noun
    assert counted(n, "image") == f"{n:,} {noun}"
    assert plural(n, "class", "classes") == ("class" if n == 1 else "classes")


def test_json_has_null_where_it_lacks_a_number() -> None:
    value = {"a": [1.5, float("nan")], 2: (float("inf"), {"b": -float("inf")}), "c": None, "d": "é\x1b", "e": True}
    read = json.loads(json_text(value), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read == {"a": [1.5, None], "2": [None, {"b": None}], "c": None, "d": "é\x1b", "e": True}
    assert json_text(value).isascii() and "\x1b" not in json_text(value), "whatever a terminal's encoding"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1.jpg", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_becomes_text_in_a_spreadsheet(text: str) -> None:
    assert csv_cell(text) == "'" + text
    assert csv_cell("a" + text) == "a" + text


@pytest.mark.parametrize("text", ["", "cat", "'=1", " =1", "a=b", "vit-layer_00", "0.5", "ä|b", "\n=1"])
def test_other_cells_are_as_they_are(text: str) -> None:
    assert csv_cell(text) == text


def test_a_path_is_text_whatever_its_bytes() -> None:
    assert utf8_text(Path("a/ä.zarr")) == "a/ä.zarr"
    assert utf8_text("a\udcff\udcfe") == r"a\xff\xfe"


def test_it_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, tokenprobe.runtime.text; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("great white shark", "great white shark"),
        ("Übung 訓練 [bold] a\\b 'q' 100%", "Übung 訓練 [bold] a\\b 'q' 100%"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("\x9b31m", r"\x9b31m"),  # an escape code of one character
        ("a\u202egpj.exe", r"a\u202egpj.exe"),  # turns what follows around
        ("line\u2028end", r"line\u2028end"),
        ("\udcff", r"\udcff"),  # a byte of a file name that is no UTF-8: printing it fails
    ],
)
def test_what_acts_on_a_terminal_is_escaped_and_nothing_else(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_character_that_is_left_is_a_control_or_cannot_be_encoded() -> None:
    everything = printable("".join(map(chr, range(0x110000))))
    everything.encode()
    assert not {unicodedata.category(character) for character in everything} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
