"""Lists of what there is: backbones, data and presets. `heads.py` has that of heads."""

import sys
from typing import Annotated

import typer

from ..runtime.text import json_text
from .program import LISTS, Json, print_lines, program

WIDE = 160


@program.command(
    "List the backbones that can be loaded, with their layers.",
    LISTS,
    """
probe models 'vit_base*'
probe models 'open_clip:ViT-B-16*' --page 2
probe models 'dinov2*'
""",
)
def _models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Name, with * and ?.")] = "*",
    page: Annotated[int, typer.Option("--page", metavar="N", help="Page of the list.")] = 1,
    json: Json = False,
) -> None:
    from rich.console import Console

    from ..extract.backbones.catalogue import facts_of, page_of, table_of
    from ..runtime.console import status

    listed = page_of(pattern, page)
    with status("reading the shapes of each backbone"):
        result = json_text(facts_of(listed)) if json else table_of(listed)
    if isinstance(result, str):
        print(result)
    else:
        Console(width=None if sys.stdout.isatty() else WIDE).print(result)  # wide enough not to break names, for grep


@program.command("List the kinds of data that can be read, and their names.", LISTS, "probe datasets")
def _datasets(json: Json = False) -> None:
    from ..extract.datasets import describe_datasets, list_datasets

    if json:
        print(json_text(list_datasets()))
    else:
        print_lines(describe_datasets())


@program.command("List the presets of probe fit, or show the settings of one.", LISTS, "probe presets capi")
def _presets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a preset.")] = None, json: Json = False
) -> None:
    from ..probe.presets.preset import PRESETS, describe_preset, list_presets, preset_facts

    if json:
        print(json_text(preset_facts(name) if name else [preset_facts(each) for each in PRESETS]))
    else:
        print_lines(describe_preset(name) if name else list_presets())
