"""Colours and brackets in the help. tests/test_help.py tests the whole help."""

import pytest
from rich.color import Color
from rich.style import Style
from rich.text import Text

from tokenprobe.runtime.help import THEME, as_markup


@pytest.mark.parametrize(
    "text", ["NAME[:key=value,…]", "[default: all]", "a [b] c [/d] [e", "[Upper] [1] []", "[[red]]"]
)
def test_brackets_are_no_styles(text: str) -> None:
    assert Text.from_markup(as_markup(text)).plain == text


def luminance(color: tuple[float, ...]) -> float:
    """WCAG 2.1, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in color)]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)], ids=["dark", "light"])
def test_the_theme_can_be_read_on_dark_and_light(background: tuple[int, ...]) -> None:
    """With the colours of the Windows console; 3 : 1 is WCAG's least contrast for large text."""
    for style in THEME.values():
        made = Style.parse(style)
        assert not (made.bold and made.color), f"{style}: terminals draw bold colours bright"
        if made.color:
            color = Color.parse(made.color.name).get_truecolor()
            ordered = sorted((luminance(tuple(color)), luminance(background)))
            assert (ordered[1] + 0.05) / (ordered[0] + 0.05) > 3, style
