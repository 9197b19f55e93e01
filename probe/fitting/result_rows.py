"""The results of finished cells: their rows in the table, and their head files."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...runtime.compiler import without_compiler
from ...runtime.text import utf8_text
from ..grid.cells import Cell
from ..grid.regimes import Regime
from ..heads import Head, build_pooling
from ..planning.plan import Plan
from ..run.results import HELD_OUT, PREDICTED, TEST, Run
from ..run.saved import SavedHead, backbone_settings, write_head
from .group_fit import GroupFit


class HeadForm(NamedTuple):
    """A description of a cell's head, for saving it and for counting its costs.

    Attributes:
        name: of the pooling.
        settings: of the pooling.
        kinds: stored arrays that it reads.
    """

    name: str
    settings: Mapping[str, Any]
    kinds: Sequence[str]


def cell_columns(plan: Plan, cell: Cell, kinds: Sequence[str], regime: Regime) -> dict[str, Any]:
    """Return the columns of the results that identify a cell, and the numbers of images that its figures rest on."""
    manifest = plan.data.store.manifest
    return {
        "cell": cell.name,
        "store": utf8_text(plan.data.store.path),
        "model": manifest.recipe.model,
        "dataset": manifest.dataset,
        "layer": cell.layer,
        "head": cell.head.name,
        "head_config": cell.head.config,
        "tokens": "+".join(kinds),
        "optimizer": cell.optimizer,
        "lr": cell.lr,
        "weight_decay": cell.weight_decay,
        "shots": cell.shots,
        "seed": cell.seed,
        "protocol": plan.config.protocol,
        "name": plan.label,
        "n_val": len(regime.val_rows),
        "n_test": len(plan.data.test),
        "selected_on": HELD_OUT if plan.config.protocol == "select" else TEST,
    }


def group_rows(plan: Plan, fit: GroupFit) -> list[dict[str, Any]]:
    """Return the results of a trained group, one row per cell, for `Run.add`. It sets `selected` over the whole run.

    The cells of a group train together, so each row has an equal share of the seconds.
    """
    group, regime = fit.group, fit.regime
    shared = cost_columns(plan, group.cells[0], _form_of(fit)) | {
        "batch_size": regime.batch_size,
        "epochs": regime.epochs,
        "train_seconds": group.seconds / len(group.cells),
        "train_cpu_seconds": group.cpu_seconds / len(group.cells),
    }
    return [
        cell_columns(plan, cell, group.kinds, regime) | shared | tracker.row() | predicted_of(fit.predicted, index)
        for index, (cell, tracker) in enumerate(zip(group.cells, fit.trackers, strict=True))
    ]


def rows_so_far(plan: Plan, fit: GroupFit, epoch: int) -> list[dict[str, Any]]:
    """Return the results of a group in training, one row per cell, without costs, and the `epoch` reached."""
    reached = {"epochs": fit.regime.epochs, "epoch": epoch}
    return [
        cell_columns(plan, cell, fit.group.kinds, fit.regime) | reached | tracker.row()
        for cell, tracker in zip(fit.group.cells, fit.trackers, strict=True)
    ]


def predicted_of(predicted: Tensor | None, index: int) -> dict[str, Any]:
    """Return what one cell predicts, from `Counter.predicted`, under its key in a row of the results."""
    return {} if predicted is None else {PREDICTED: predicted[index].numpy()}


def save_heads(run: Run, plan: Plan, fit: GroupFit) -> None:
    """Write the heads of a group, each with the weights of its best epoch. A cell that diverged at once has no head."""
    for index, (cell, tracker) in enumerate(zip(fit.group.cells, fit.trackers, strict=True)):
        if tracker.epochs:
            save_head(run, plan, cell, _form_of(fit), fit.group.best_state(index))


def cost_columns(plan: Plan, cell: Cell, form: HeadForm) -> dict[str, int]:
    """Return the costs of a head: its parameters, and its operations per image."""
    shape = plan.input_shape(cell)

    def head_without_values() -> Head:
        with torch.device("meta"):
            pooling = build_pooling(form.name, **shape.of_pooling, **form.settings)
            return Head(pooling, plan.data.n_classes)

    head = without_compiler(head_without_values)
    from ..heads.flops import count_flops  # imports Triton, and is needed after the last step

    flops = count_flops(head, sum(prod(shape.row_shape(kind)[:-1]) for kind in form.kinds), shape.dim)
    return {"n_params": head.n_params(), "flops_forward": flops.forward, "flops_train": flops.train}


def save_head(
    run: Run, plan: Plan, cell: Cell, form: HeadForm, state: Mapping[str, Tensor], *, logits: bool = True
) -> None:
    """Write the head of a cell.

    Args:
        run: to write to.
        plan: of the cell's store.
        cell: the cell.
        form: enough to build the head again.
        state: its weights and statistics.
        logits: whether the head's outputs are logits, for a softmax or for sigmoids.
    """
    store, shape = plan.data.store, plan.input_shape(cell)
    recipe = store.manifest.recipe
    about = SavedHead(
        head=form.name,
        settings=dict(form.settings),
        dim=shape.dim,
        grid=shape.grid,
        classes=list(plan.data.train.classes),
        multi_label=plan.data.multi_label,
        logits=logits,
        tokens=list(form.kinds),
        layers=list(cell.layers),
        stacked=cell.layers.stacked,
        norm=None if plan.data.norm is None else dict(plan.data.norm),
        model=recipe.model,
        weights=recipe.weights,
        transform=recipe.transform,
        backbone=backbone_settings(store),
    )
    write_head(run.path, cell.name, state, about)


def _form_of(fit: GroupFit) -> HeadForm:
    head = fit.group.cells[0].head
    return HeadForm(head.name, dict(head.settings), fit.group.kinds)
