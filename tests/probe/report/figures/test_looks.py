"""The look of a head: a function of the head alone, and different where heads differ."""

import colorsys
import re

from matplotlib.colors import to_rgb

from tokenprobe.probe.grid.specs import HEADS, parse_heads
from tokenprobe.probe.report.figures.looks import COLOURS, look_of

USUAL = ["ep:queries=8|16|32|64", "linear:pool=cls|mean|cls+mean", "knn", "ridge", "logreg", "aim", "simpool", "abmilp"]


def test_every_head_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) >= set(HEADS) and len(set(COLOURS.values())) == len(COLOURS)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in COLOURS.values())


def test_the_default_has_the_colour_of_its_kind_and_variants_its_hue() -> None:
    assert look_of("ep:queries=32").color.upper() == COLOURS["ep"] and look_of("ep:queries=32").linestyle == "-"
    hues = [colorsys.rgb_to_hls(*to_rgb(look_of(f"ep:queries={n}").color))[0] for n in (8, 16, 32, 64)]
    assert max(hues) - min(hues) < 0.01
    assert len({look_of(f"ep:queries={n}") for n in (8, 16, 32, 64)}) == 4
    assert look_of("linear:pool=mean").color.upper() == COLOURS["linear"]


def test_heads_that_are_compared_look_different_in_grey_too() -> None:
    looks = [look_of(head.label) for head in parse_heads(USUAL)]
    assert len(set(looks)) == len(looks) == 13
    assert len({look.color for look in looks}) == 13
    assert len({(look.marker, str(look.linestyle)) for look in looks}) >= 11


def test_trainings_of_one_head_look_different() -> None:
    looks = [look_of(f"linear:pool=cls{number}") for number in ("", " #1", " #2")]
    assert len({look.color for look in looks}) == len({look.linestyle for look in looks}) == 3


def test_a_head_of_another_version_has_a_look() -> None:
    assert look_of("later:x=1") == look_of("later:x=1")
