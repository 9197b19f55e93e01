"""The settings of `probe report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ...runtime.options import OUTPUT, Option
from ...runtime.settings import Settings

EXAMPLES = """
probe report runs/mae
probe report runs/mae runs/dino -o compared
probe report runs/mae --figures --style slides
"""
Style = Annotated[
    str,
    Option(
        "Fonts and size of the figures: paper (one column, 3.25 inches wide), slides, a style of matplotlib, or a file "
        "of one.",
        OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Settings of `probe report`. Each field's `Option` describes it."""

    out: Annotated[
        str | Path | None,
        Option(
            "Folder of the report.",
            OUTPUT,
            short="-o",
            metavar="FOLDER",
            default="the run itself, or report for several runs",
        ),
    ] = None
    figures: Annotated[bool, Option("Draw only the figures again.", OUTPUT)] = False
    style: Style = "paper"
