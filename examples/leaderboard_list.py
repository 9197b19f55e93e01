"""The list of a leaderboard: rows with their backbone, settings and published figures, read from YAML and checked.

`leaderboard.py` runs such a list, and `leaderboard_page.py` writes it into the documentation. The keys of a row are the
fields of `Row`. Settings under `extract` and `fit` at the top of the file hold for every row that gives no others.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tokenprobe.errors import InputError, unknown_name
from tokenprobe.extract import ExtractConfig
from tokenprobe.probe import FitConfig
from tokenprobe.probe.grid.specs import HeadSpec, parse_heads
from tokenprobe.runtime.config_file import read_settings, read_texts
from tokenprobe.runtime.settings import Settings

KINDS: dict[str, type[Any]] = {
    **dict.fromkeys(("name", "title", "probe", "head", "reason"), str),
    **dict.fromkeys(("sources", "n_images", "log"), dict),
    **dict.fromkeys(("rows", "figures", "notes"), list),
}
"""Keys of a list, and the kinds of their values."""
WORDS: dict[type[Any], str] = {str: "text", dict: "keys and values", list: "a list"}
FIGURE = ("probe", "head", "reason", "log")
"""Keys of a figure beside the names of sources."""
LOG = ("best_epoch", "epochs", "last", "parameters")
"""Facts of a log: the best epoch, from 1 on; the number of epochs; top-1 in percent after the last; parameters."""
STAGES: dict[str, type[Settings]] = {"extract": ExtractConfig, "fit": FitConfig}


@dataclass(frozen=True)
class Figure:
    """One published figure, perhaps from several sources.

    Attributes:
        probe: its name in the tables, such as EP.
        published: top-1 in percent, by source, with as many decimals as the source has.
        log: facts of its log, by the names in `LOG`; empty if there is none.
        head: the head that reproduces it, or None.
        reason: why no head reproduces it.
    """

    probe: str
    published: Mapping[str, Decimal]
    log: Mapping[str, float]
    head: HeadSpec | None
    reason: str


@dataclass(frozen=True)
class Row:
    """One backbone with its published figures.

    Attributes:
        name: name of its files.
        title: name in the tables.
        extract: fields of `ExtractConfig`, without out.
        fit: fields of `FitConfig`, without out.
        figures: the published figures.
        notes: deviations and hints, in whole sentences.
        reason: why it cannot be run; empty if it can.
    """

    name: str
    title: str
    extract: Mapping[str, Any]
    fit: Mapping[str, Any]
    figures: Sequence[Figure]
    notes: Sequence[str]
    reason: str

    def settings(self, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of both configs, with the store and the run in a folder."""
        return (
            {**self.extract, "out": str(out / f"{self.name}.zarr")},
            {**self.fit, "out": str(out / "runs" / self.name)},
        )


@dataclass(frozen=True)
class Board:
    """A list of rows.

    Attributes:
        sources: where the figures come from, by the name of the source.
        n_images: images per split of the data.
        rows: the rows.
    """

    sources: Mapping[str, str]
    n_images: Mapping[str, int]
    rows: Sequence[Row]


def read_board(path: str) -> Board:
    """Read a list of rows from YAML.

    Raises:
        InputError: the file is not such a list. The message names the place.
        MissingError: there is no such file.
    """
    content = read_texts(path)
    try:
        return _read_content(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_content(content: Any) -> Board:
    content = _keys(content, "the list", ["sources", "rows"], ["n_images", *STAGES])
    for name in content["sources"]:
        if name in FIGURE:
            raise InputError(f"a source cannot be named {name!r}, which is a key of a figure; give it another name")
    counts = content.get("n_images") or {}
    images = {split: int(_number(n, f"n_images of {split}", 1, 1e12)) for split, n in counts.items()}
    rows = [_read_row(row, position, content) for position, row in enumerate(content["rows"], start=1)]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two rows are named {name!r}; files have the names of rows, so give each its own")
    return Board(content["sources"], images, rows)


def _read_row(row: Any, position: int, board: Mapping[str, Any]) -> Row:
    row = _keys(row, f"row {position}", ["name", "title", "figures"], [*STAGES, "notes", "reason"])
    where, reason = f"row {row['name']!r}", row.get("reason") or ""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", row["name"]):
        raise InputError(f"{where}: files have this name, so give lower-case letters, digits and . _ - alone")
    figures = [_read_figure(figure, where, board["sources"]) for figure in row["figures"]]
    settings = {stage: _read_stage(stage, where, board.get(stage), row.get(stage)) for stage in STAGES}
    heads = list(dict.fromkeys(figure.head.label for figure in figures if figure.head))
    if not reason and not (heads and "model" in settings["extract"]):
        lacking = "head" if not heads else "model"
        raise InputError(f"{where} has no {lacking}; name one, or give the row a reason why it cannot be run")
    notes = row.get("notes") or []
    return Row(
        row["name"], row["title"], settings["extract"], settings["fit"] | {"heads": heads}, figures, notes, reason
    )


def _read_stage(stage: str, where: str, common: Any, own: Any) -> dict[str, Any]:
    """Return the settings of a stage. The row's own win over those of the list."""
    try:
        found = read_settings(STAGES[stage], common or {}) | read_settings(STAGES[stage], own or {})
    except InputError as error:
        raise InputError(f"{where}, {stage}: {error}") from None
    for name in ("out", "heads"):
        if name in found:
            raise InputError(f"{where}, {stage}: leave {name} out; the script decides it")
    return found


def _read_figure(figure: Any, where: str, sources: Mapping[str, str]) -> Figure:
    figure = _keys(figure, f"a figure of {where}", ["probe"], [*FIGURE, *sources])
    where, spec, reason = f"{where}, {figure['probe']}", figure.get("head"), figure.get("reason") or ""
    for source in sources:
        _number(figure.get(source, 1), f"{where}, {source}", 1, 100)
    published = {source: Decimal(figure[source]) for source in sources if source in figure}
    if not published:
        raise InputError(f"{where} has no published figure; give one from a source: {', '.join(sources)}")
    if not spec and not reason:
        raise InputError(f"{where} has no head; name one, or give a reason why no head reproduces it")
    heads = parse_heads([spec]) if spec else []
    if len(heads) > 1:
        raise InputError(f"{where}: {spec!r} names {len(heads)} heads; give each a figure of its own")
    log = _keys(figure.get("log") or dict.fromkeys(LOG, 1), f"log of {where}", LOG, [])
    facts = {key: _number(log[key], f"log of {where}, {key}", 1, 1e12) for key in LOG if "log" in figure}
    return Figure(figure["probe"], published, facts, heads[0] if heads else None, reason)


def _keys(content: Any, where: str, needed: Sequence[str], others: Sequence[str]) -> dict[str, Any]:
    """Return keys and values after a check of the keys."""
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected keys and values, found {content!r}")
    for key in content:
        if key not in (*needed, *others):
            raise unknown_name(f"key in {where}", key, [*needed, *others])
    for key in needed:
        if not content.get(key):
            raise InputError(f"{where} has no {key}")
    for key, kind in KINDS.items():
        if not isinstance(content.get(key) or kind(), kind):
            raise InputError(f"{where}, {key}: expected {WORDS[kind]}, found {content[key]!r}")
    return content


def _number(text: Any, where: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not least <= value <= most:
        raise InputError(f"{where}: expected a number from {least:g} to {most:g}, found {text!r}")
    return value
