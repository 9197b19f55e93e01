"""Pages of all known backbones. Each model on a page is built without weights, to get its shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil, prod
from typing import Any

from rich.table import Table

from ...errors import InputError, unknown_name
from ...store.layout import EMBEDDING, MEAN, PATCH, PREFIX, LayerShape
from ...store.quantize import array_type
from .from_hub import hub_names, hub_shapes
from .from_open_clip import open_clip_names, open_clip_shapes
from .from_timm import timm_names, timm_shapes
from .transformers_models import transformers_names, transformers_shapes

PAGE_SIZE = 20
DTYPE = "float16"
CATALOGUES: dict[str, tuple[Callable[[], list[str]], Callable[[str], list[LayerShape]]]] = {
    "timm": (timm_names, timm_shapes),
    "open_clip": (open_clip_names, open_clip_shapes),
    "hub": (hub_names, hub_shapes),
    "transformers": (transformers_names, transformers_shapes),
}
"""For each source that can list its models: functions for the names of all, and for the shapes of one."""


@dataclass(frozen=True)
class Page:
    """Some of the models that match a pattern.

    Attributes:
        names: names with their source.
        number: number of the page, from 1 on.
        n_pages: number of pages.
        n_models: number of models on all pages.
    """

    names: Sequence[str]
    number: int
    n_pages: int
    n_models: int


def page_of(pattern: str, number: int = 1) -> Page:
    """Return one page of the models that match a pattern such as "vit_base*" or "open_clip:ViT*".

    A pattern matches a whole name, with or without its source, or the part before the weights, or the entry of a hub
    model, or the name of a transformers model without its organisation.

    Raises:
        InputError: no model matches, or the page does not exist.
    """
    known = [f"{source}:{name}" for source, (names, _) in CATALOGUES.items() for name in names()]
    found = [name for name in known if _matches(name, pattern)]
    if not found:
        raise unknown_name("model", pattern, [name.partition(":")[2] for name in known])
    n_pages = ceil(len(found) / PAGE_SIZE)
    if not 1 <= number <= n_pages:
        raise InputError(f"no page {number} for {pattern!r}: {len(found)} models match, on pages 1 to {n_pages}")
    return Page(found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE], number, n_pages, len(found))


def facts_of(page: Page) -> dict[str, Any]:
    """Return a page as values for JSON. A model has no layers there if its shapes are unknown without its weights."""
    return {
        "page": page.number,
        "pages": page.n_pages,
        "n_models": page.n_models,
        "models": [_facts(name, shapes_of(name)) for name in page.names],
    }


def _facts(name: str, shapes: Sequence[LayerShape]) -> dict[str, Any]:
    return {
        "model": name,
        "layers": [
            {"grid": list(shape.grid), "dim": shape.dim, "prefix": shape.n_prefix, "embedding": shape.embedding}
            for shape in shapes
        ],
        "image_bytes": image_bytes(shapes) if shapes else None,
    }


def table_of(page: Page) -> Table:
    """Return the layers, widths and tokens of a page's models, one row per model."""
    caption = f"{page.n_models} models; kB: tokens of all layers per image, in {DTYPE}"
    if page.n_pages > 1:
        caption = f"page {page.number} of {page.n_pages} (--page {page.number % page.n_pages + 1}), {caption}"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold")
    for name in ("layers", "width", "patches", "prefix", "kB"):
        table.add_column(name, justify="right")
    for name in page.names:
        table.add_row(name.removeprefix("timm:"), *_cells(shapes_of(name)))
    return table


def shapes_of(name: str) -> list[LayerShape]:
    """Return the shapes of a model's layers, or an empty list if they are unknown without its weights."""
    source, _, bare = name.partition(":")
    try:
        return CATALOGUES[source][1](bare)
    except Exception:  # any model, built for its shapes alone
        return []


def image_bytes(shapes: Sequence[LayerShape]) -> int:
    """Return the bytes per image in a store of all layers."""
    return sum(
        prod(shape.row_shape(kind)) * array_type(kind, DTYPE).stored.itemsize
        for shape in shapes
        for kind in (PATCH, PREFIX, MEAN, EMBEDDING)
    )


def _matches(name: str, pattern: str) -> bool:
    bare = name.partition(":")[2]
    part = (
        bare.rpartition("/")[2]
        if name.startswith(("hub:", "transformers:"))
        else bare.partition("/")[0].partition(".")[0]
    )
    return any(fnmatchcase(each, pattern) for each in (name, bare, part))


def _cells(shapes: Sequence[LayerShape]) -> list[str]:
    if not shapes:
        return ["?"] * 5
    first, last = shapes[0], shapes[-1]
    return [
        str(len(shapes)),
        _span(first.dim, last.dim),
        _span(first.n_patches, last.n_patches),
        str(last.n_prefix),
        f"{image_bytes(shapes) / 1000:,.0f}",
    ]


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"
