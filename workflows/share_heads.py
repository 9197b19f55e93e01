"""`probe heads list`, `export` and `push`: the heads of a run, and one of them as a folder with its model card."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ..errors import InputError, MissingError
from ..extract import ExtractConfig
from ..probe.batches.layer_set import parse_text
from ..probe.grid.cells import store_of
from ..probe.heads import Head
from ..probe.report.best import BEST, best_cell
from ..probe.report.choices import choice_of
from ..probe.report.compare import Interval, judge, own_interval
from ..probe.report.html.commands import commands_of
from ..probe.report.summary import tidy
from ..probe.run.hub import upload_head
from ..probe.run.predictions import read_images, read_predicted
from ..probe.run.results import Run
from ..probe.run.saved import SHARED, SUFFIX, SavedHead, load_file, load_saved, saved_cells, write_file
from ..runtime.options import flags_of
from ..runtime.text import utf8_text
from ..store.durable import write_durably
from ..store.outputs import check_folder
from .config import ExportHeadConfig
from .head_card import CARD, REPO, Evaluation, head_card

logger = logging.getLogger(__name__)

FILE = f"{SHARED}{SUFFIX}"


def list_heads(run: str | Path) -> pd.DataFrame:
    """Return the trained heads of a run, best first by the figure that selects.

    Returns:
        One row per cell with a head: `cell`, `layer`, `head` (readable), `spec` (as `--heads` takes it), `shots`,
        `seed`, `figure` ("top1" or "map"), `val` and `test` (fractions), `selected`, and `best`: the one of
        `--cell best`.

    Raises:
        MissingError: no such run, or it has no results or no heads yet.
    """
    opened, known = Run(Path(run)), {*saved_cells(Path(run))}
    if opened.results.empty:
        raise MissingError(f"run {str(run)!r} has no results yet; wait for its probe fit")
    cells = tidy(opened.results)
    cells = cells[cells["cell"].isin(known)]
    counted = cells["val"].where(cells["protocol"] == "select", cells["test"])
    cells = cells.loc[counted.sort_values(ascending=False, kind="stable").index]
    columns = ["cell", "layer", "head", "spec", "shots", "seed", "figure", "val", "test", "selected"]
    has_best = bool((cells["selected"] & cells["test"].notna()).any())
    best = best_cell(opened, known, "cell with a head") if has_best else None
    return cells[columns].assign(best=cells["cell"] == best).reset_index(drop=True)


def lines_of(heads: pd.DataFrame) -> Iterator[str]:
    """Yield the heads as lines: marks, figures in percent, layer, head, cell."""
    figure = {"top1": "top-1", "map": "mAP"}[heads["figure"].iloc[0]] if len(heads) else "top-1"
    n_head, n_layer = (max([*heads[name].str.len(), len(name)]) for name in ("head", "layer"))
    yield f"{figure} in %; * selected, ** the one that --cell best names"
    yield f"    test   val  {'layer':>{n_layer}}  {'head':<{n_head}}  cell"
    for row in heads.itertuples():
        mark = "**" if row.best else " *" if row.selected else "  "
        figures = " ".join("    –" if pd.isna(value) else f"{100 * value:5.1f}" for value in (row.test, row.val))
        yield f"{mark} {figures}  {row.layer:>{n_layer}}  {row.head:<{n_head}}  {row.cell}"


def export_head(run: str | Path, config: ExportHeadConfig) -> Path:
    """Write a trained head and its model card into a new folder: `head.safetensors` and `README.md`.

    The folder holds no path of this machine: of a backbone's weights file it has the name and the hash.

    Args:
        run: a run folder; its store is not needed.
        config: the head, its licence, and the folder.

    Returns:
        The path of the new folder.

    Raises:
        TokenprobeError: a setting cannot be met; the message says what to do.
    """
    out, opened = check_head_folder(config.out), Run(Path(run))
    known = {*saved_cells(opened.path)}
    cell = best_cell(opened, known, "cell with a head") if config.cell == BEST else config.cell
    head, about = load_saved(run, cell)
    about = without_paths(about)
    rows = tidy(opened.results)
    evaluation = _evaluation(opened, rows, cell) if (rows["cell"] == cell).any() else None
    commands = [*_commands(opened, store_of(cell), about, evaluation)]
    write_folder(out, head, about, head_card(about, head.n_params(), evaluation, commands, config.license))
    logger.info(f"{cell} -> {out}")
    return out


def check_head_folder(out: str | Path) -> Path:
    """Return the path of a folder that a head can be written to: none yet, or an empty one.

    Raises:
        InputError: there is something at the path.
    """
    path = check_folder(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{str(out)!r} exists already; give --out a new folder")
    return path


def write_folder(out: Path, head: Head, about: SavedHead, card: str) -> None:
    """Write a head and its card. The head comes last: a folder without it is incomplete."""
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / CARD, card.encode())
    write_file(out / FILE, state_of(head), about)


def state_of(head: Head) -> dict[str, Tensor]:
    """Return the weights and statistics of a head of one cell, as its file holds them."""
    return {name: value[0].detach().clone() for name, value in head.state_dict().items()}


def without_paths(about: SavedHead) -> SavedHead:
    """Return what a head's file says, without the folders of this machine."""
    backbone = dict(about.backbone)
    if backbone.get("checkpoint"):
        backbone["checkpoint"] = Path(backbone["checkpoint"]).name
    if any(part in backbone.get("model", "") for part in ("local-dir:", ":/")):
        backbone["model"] = about.model
    return replace(about, backbone=backbone)


def push_head(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload an exported head and its card to the Hugging Face hub. Its card then names the repository.

    Args:
        folder: made by `export_head` or `import_head`.
        repo: "ORG/NAME". The repository is made if there is none.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        MissingError: the folder has no head or no card.
        RunError: the head's file is damaged.
        InputError: the name has another form.
        HubError: the hub cannot be reached, or refuses.
    """
    path = Path(folder)
    for name in (FILE, CARD):
        if not (path / name).is_file():
            raise MissingError(f"no {name} in {str(folder)!r}; make the folder with probe heads export")
    load_file(path / FILE)
    card = (path / CARD).read_text()
    if f"hf:{REPO}" in card:
        write_durably(path / CARD, card.replace(f"hf:{REPO}", f"hf:{repo}").encode())
    return upload_head(path, repo, [FILE, CARD], private=private)


def _evaluation(run: Run, cells: pd.DataFrame, cell: str) -> Evaluation | None:
    row = cells[cells["cell"] == cell].iloc[0]
    if pd.isna(row["test"]):
        return None
    n_test, rate = row["n_test"], row["lr"]
    parts = [] if pd.isna(rate) else [f"{row['optimizer']}, base lr {rate:g}"]
    if not pd.isna(row["weight_decay"]):
        parts.append(f"{'penalty' if pd.isna(rate) else 'weight decay'} {row['weight_decay']:g}")
    return Evaluation(
        dataset=row["dataset"],
        figure=row["figure"],
        test=float(row["test"]),
        interval=_interval(run, row),
        n_test=None if pd.isna(n_test) else int(n_test),
        shots=row["shots"],
        chosen=choice_of(cells, cell),
        settings=", ".join([*parts, f"seed {row['seed']}"]),
    )


def _interval(run: Run, row: "pd.Series[Any]") -> Interval | None:
    """Return the interval over test images, or None if the run does not keep what the cell predicts."""
    images = read_images(run.path, store_of(row["cell"]))
    predicted = None if images is None else read_predicted(run.path, row["cell"], images, row["test_top1"])
    if images is None or predicted is None:
        return None
    judged = judge(images.ids, images.labels, [predicted])
    return None if judged is None else own_interval(judged)


def _commands(run: Run, store: str, about: SavedHead, evaluation: Evaluation | None) -> Iterator[Sequence[str]]:
    """Yield the extraction, as far as it is known, and the fits. Paths are reduced to names."""
    fits = [command for command in commands_of(run) if command[1] == "fit"]
    if evaluation is None or not fits:
        return
    of_store = run.results[run.results["cell"].map(store_of) == store]
    path = of_store["store"].iloc[-1]
    layers = sorted({layer for text in of_store["layer"].unique() for layer in parse_text(text)})
    backbone = {"data": evaluation.dataset, "out": Path(path).name, "layers": ",".join(map(str, layers))}
    yield ["probe", "extract", *flags_of(ExtractConfig, {**about.backbone, **backbone})]
    places = {utf8_text(run.path), *map(str, run.results["store"].unique())}
    for command in fits:
        yield [_named(argument, places) for argument in command]


def _named(argument: str, places: set[str]) -> str:
    """Return an argument with the folders of a path left out: "NAME=PATH" or PATH."""
    for place in places:
        if argument == place or argument.endswith(f"={place}"):
            return argument.removesuffix(place) + Path(place).name
    return argument
