"""The documentation of a leaderboard: what each row costs, what is published, and its two commands."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from leaderboard_list import Board, Figure, Row

from tokenprobe.extract import ExtractConfig
from tokenprobe.extract.backbones.catalogue import image_bytes, shapes_of
from tokenprobe.probe import FitConfig
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.runtime.options import flags_of
from tokenprobe.runtime.text import size_text
from tokenprobe.store.layout import LayerShape, parse_layers

ROWS = "\n## The rows\n"
"""Title of the part of the page that the list decides. All text before it stays as it is."""


def write_page(board: Board, page: Path) -> None:
    """Write the list into a page, which need not exist."""
    page.write_text(page_of(board, page.read_text() if page.exists() else ""))


def page_of(board: Board, page: str) -> str:
    """Return a page with the rows of a list in place of its own."""
    runnable = [row for row in board.rows if not row.reason]
    others = [row for row in board.rows if row.reason]
    parts = [page.partition(ROWS)[0] + ROWS, *_sources(board), "", *_table(board, runnable), ""]
    for row in runnable:
        parts += [*_section(row), ""]
    parts += ["## Rows that cannot be run", ""]
    return "\n".join([*parts, *(f"* **{row.title}** ({_figures(row)}). {row.reason}" for row in others), ""])


def shapes(row: Row) -> list[LayerShape]:
    """Return the shapes of the layers that a row stores; none if only the weights tell them."""
    of_model, layers = shapes_of(row.extract["model"]), ExtractConfig(**row.settings(Path())[0]).layers
    depth = len(of_model)
    return [of_model[layer] for layer in parse_layers(layers, range(depth), depth, "backbone")] if of_model else []


def commands(row: Row) -> tuple[str, str]:
    """Return the two commands of a row, as for a shell, in the folder of the stores."""
    extraction, fitting = row.settings(Path())
    lines = (
        ["probe", "extract", *flags_of(ExtractConfig, extraction)],
        ["probe", "fit", extraction["out"], *flags_of(FitConfig, fitting)],
    )
    first, second = map(shlex.join, lines)
    return first, second


def _sources(board: Board) -> Iterator[str]:
    for name, source in board.sources.items():
        yield f"* **{name}**: {source}"


def _table(board: Board, rows: list[Row]) -> Iterator[str]:
    """Yield the table of costs and published figures, one line per row."""
    columns = [(probe, source) for probe in ("LP", "EP") for source in board.sources]
    header = ["row", "tokens of an image", "store", "each further view", *(f"{p}, {s}" for p, s in columns)]
    yield f"| {' | '.join(header)} |"
    yield "|---|---|" + "--:|" * (len(header) - 2)
    n_train, n_images = board.n_images["train"], sum(board.n_images.values())
    for row in rows:
        found, published = shapes(row), {figure.probe: figure.published for figure in row.figures}
        sizes = [size_text(n * image_bytes(found)) if found else "?" for n in (n_images, n_train)]
        figures = [published.get(probe, {}).get(source) for probe, source in columns]
        cells = [row.title, _tokens(found), *sizes, *("" if each is None else str(each) for each in figures)]
        yield f"| {' | '.join(cells)} |"


def _tokens(found: list[LayerShape]) -> str:
    if not found:
        return "known from its weights alone"
    shape = found[-1]
    prefix = f" + {shape.n_prefix} prefix" if shape.n_prefix else ""
    return f"{shape.n_patches} patch{prefix}, {shape.dim} wide"


def _section(row: Row) -> Iterator[str]:
    """Yield the section of a row: commands, heads with their figures, notes."""
    file = row.extract.get("checkpoint")
    yield f"### {row.title}\n\n```"
    yield f"# needs {file} and ImageNet" if file else "# downloads weights, and needs ImageNet"
    yield from commands(row)
    yield "```\n"
    for figure in row.figures:
        yield f"* {figure.probe}: {_published(figure)}. {_log(figure)}{_head(row, figure)}"
    yield from (f"* {note}" for note in row.notes)


def _head(row: Row, figure: Figure) -> str:
    if figure.head is None:
        return f"Not reproduced: {figure.reason}"
    found = shapes(row)
    words = [_words(kind, found) for kind in figure.head.inputs(TokenShape(**vars(found[-1])))] if found else []
    reads = f" reads {' and '.join(words)}" if words else ""
    return f"`{figure.head.label}`{reads}."


def _words(kind: str, found: list[LayerShape]) -> str:
    shape = found[-1]
    return {
        "patch": f"{shape.n_patches} patch tokens",
        "prefix": "the class token" if shape.n_prefix == 1 else f"{shape.n_prefix} prefix tokens",
        "mean": f"the mean of {shape.n_patches} patch tokens",
        "embedding": f"the embedding, {shape.embedding} wide",
    }[kind]


def _published(figure: Figure) -> str:
    return ", ".join(f"{value} ({source})" for source, value in figure.published.items())


def _log(figure: Figure) -> str:
    if not figure.log:
        return ""
    best, n_epochs, last, n_parameters = figure.log.values()
    return f"Log: best in epoch {best:g} of {n_epochs:g}, {last:.2f} after the last; {n_parameters:,.0f} parameters. "


def _figures(row: Row) -> str:
    return "; ".join(f"{figure.probe} {_published(figure)}" for figure in row.figures)
