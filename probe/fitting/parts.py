"""Parts of a run: one layer of one store each, which processes train at the same time as runs of their own.

    RUN/parts/plan.json             the cells of each part, and of each pass: decided once, by whoever is first
    RUN/parts/0003-NAME-layer_05/   a run

The leader makes one run of them. Its tables then equal those of a fit in one process.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...engines.contract import Tell, Worker
from ...errors import InputError, RunError
from ...runtime.stopping import is_stopping
from ...store.durable import open_new, remove_durably, take_name
from ...store.temporaries import new_writer, temporary_of
from ..config import FitConfig
from ..grid.cells import CellGroup, shortened
from ..logs import open_log
from ..planning.layer_plan import LayerPlan
from ..planning.machine import make_machine
from ..planning.settings import identity
from ..run.digest import value_digest
from ..run.files import damaged, read_file
from ..run.made_from import claim
from ..run.origin import check_same_settings
from ..run.results import Run, open_run
from .layer_fit import fit_layer
from .progress import QuietProgress

FOLDER, PLAN = "parts", "plan.json"
LONGEST = 120
"""Most bytes in the name of a part's folder."""
Cells = list[list[str]]


@dataclass(frozen=True)
class Part:
    """A unit of a fit.

    Attributes:
        key: name of its folder.
        layer: the cells that the run lacks; there may be none.
    """

    key: str
    layer: LayerPlan


def has_parts(run: Path) -> bool:
    """Whether a run has parts that are not merged yet."""
    return (run / FOLDER / PLAN).exists()


def plan_once(run: Run, todo: Sequence[LayerPlan]) -> list[Part]:
    """Return the parts of a run, with the passes that the first process planned.

    The passes depend on the memory of a machine, and their sizes on how numbers round. So whoever is first writes them
    down, and all others train the same.

    Args:
        run: the whole run. Its cells are left out: a merge that was killed may have taken them over.
        todo: a plan per layer, made by this process. All shards make them in the same order.

    Raises:
        RunError: the parts are of another command.
    """
    mine = {_key(number, layer): layer for number, layer in enumerate(todo)}
    path = run.path / FOLDER / PLAN
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        _write_first(path, {key: _cells_of(layer) for key, layer in mine.items()})
    planned = _read_plan(run.path)
    if planned.keys() != mine.keys() or any(
        _about(planned[key], run.finished) != _about(_cells_of(mine[key])) for key in mine
    ):
        raise RunError(
            f"{str(path.parent)!r} holds parts of another command; repeat that one, or give probe merge {run.path}, or "
            "remove the folder"
        )
    return [Part(key, _repacked(layer, planned[key]["passes"])) for key, layer in mine.items()]


class FitWork:
    """Makes workers of a fit: see `WorkerFactory`."""

    def __init__(self, config: FitConfig, place: str) -> None:
        """Prepare workers.

        Args:
            config: of the fit.
            place: whose memory the leader planned for.
        """
        self._config, self._place = config, place

    @contextmanager
    def __call__(self) -> Iterator[Worker]:
        """Make a worker in this process."""
        config, machine = self._config, make_machine(self._config)
        if machine.place != self._place:
            raise InputError(
                f"a worker trains on {machine.device}, but the leader planned for the memory of {self._place}; give "
                "--device, so that all workers train on devices of one kind"
            )

        def work(parts: Iterator[Part], tell: Tell) -> None:
            for part in parts:
                with open_run(Path(config.out) / FOLDER / part.key) as run:
                    claim(run, [part.layer.plan], str(machine.device))
                    left = _without(part.layer, run.finished)
                    tell(part.layer.n_cells - left.n_cells, 0)
                    if left:
                        with open_log(config.log, Path(config.out), part.key) as log:
                            fit_layer(left, machine, run, QuietProgress(left.n_cells, lambda n: tell(n, 0), log))
                if is_stopping():
                    return

        yield work


def merge_parts(run: Run) -> None:
    """Make one run of all parts, and remove them. After a kill at any point, the same call goes on.

    Raises:
        RunError: a part lacks cells, or was trained with other settings than `config.yaml` of the run says.
    """
    folder = run.path / FOLDER
    planned = _read_plan(run.path)
    parts = {key: Run(folder / key) for key in sorted(planned)}
    for key, part in parts.items():
        lacking = _names(planned[key]) - part.finished - run.finished
        if lacking:
            raise RunError(
                f"{str(folder / key)!r} lacks {len(lacking)} of {len(_names(planned[key]))} cells; repeat the fit, or "
                "its shards"
            )
    check_same_settings(run.path, list(parts.values()))
    for part in parts.values():
        for pattern in ("heads/*.safetensors", "predictions/*.parquet"):
            for file in sorted(part.path.glob(pattern)):
                (run.path / file.parent.name).mkdir(exist_ok=True)
                os.replace(file, run.path / file.parent.name / file.name)
    rows = [
        row for part in parts.values() for row in part.results.to_dict("records") if row["cell"] not in run.finished
    ]
    history = [row for part in parts.values() for row in part.history.to_dict("records")]
    if rows:
        cells = {row["cell"] for row in rows}
        run.add(rows, [row for row in history if row["cell"] in cells])
    remove_durably([folder / PLAN])  # from now on there are no parts
    shutil.rmtree(folder)


def _key(number: int, layer: LayerPlan) -> str:
    return f"{number:04d}-" + shortened(f"{layer.plan.name}-layer_{layer.label}".replace("/", "_"), LONGEST)


def _cells_of(layer: LayerPlan) -> dict[str, Any]:
    """Return the names of the cells of a layer that are solved, those of each group of each pass, and the settings."""
    passes = [[[cell.name for cell in group.cells] for group in groups] for groups in layer.passes]
    solved = [cell.name for group in layer.solved_groups for cell in group.cells]
    return {"solved": solved, "passes": passes, "settings": value_digest(identity(layer.plan))}


def _about(cells: dict[str, Any], finished: frozenset[str] = frozenset()) -> tuple[str, set[str]]:
    return cells["settings"], _names(cells) - finished


def _names(cells: dict[str, Any]) -> set[str]:
    return {*cells["solved"], *(name for groups in cells["passes"] for group in groups for name in group)}


def _write_first(path: Path, content: dict[str, Any]) -> None:
    """Write a file, unless another process does so first."""
    temporary = temporary_of(path, new_writer())
    with os.fdopen(open_new(temporary), "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    take_name(temporary, path)
    temporary.unlink(missing_ok=True)


def _read_plan(run: Path) -> dict[str, dict[str, Any]]:
    path = run / FOLDER / PLAN
    try:
        planned: dict[str, dict[str, Any]] = json.loads(read_file(path) or b"")
        for cells in planned.values():
            _about(cells)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error
    return planned


def _repacked(layer: LayerPlan, passes: Sequence[Sequence[Sequence[str]]]) -> LayerPlan:
    """Return a plan with its cells in other passes."""
    known = {cell.name: (group.regime, cell) for groups in layer.passes for group in groups for cell in group.cells}
    left = [[[name for name in names if name in known] for names in groups] for groups in passes]
    packed = [
        [CellGroup(known[names[0]][0], tuple(known[name][1] for name in names)) for names in groups if names]
        for groups in left
    ]
    return replace(layer, passes=[groups for groups in packed if groups])


def _without(layer: LayerPlan, finished: frozenset[str]) -> LayerPlan:
    """Return a plan without finished cells. The others stay in their passes."""

    def left(groups: Sequence[CellGroup]) -> list[CellGroup]:
        cut = [_unfinished_of(group, finished) for group in groups]
        return [group for group in cut if group.cells]

    passes = [groups for groups in map(left, layer.passes) if groups]
    return replace(layer, solved_groups=left(layer.solved_groups), passes=passes)


def _unfinished_of(group: CellGroup, finished: frozenset[str]) -> CellGroup:
    return CellGroup(group.regime, tuple(cell for cell in group.cells if cell.name not in finished))
