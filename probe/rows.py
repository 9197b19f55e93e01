"""What is written of finished cells: their rows of the results, and their heads."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .grid import Cell
from .heads import Head, build_pooling
from .heads.flops import Flops, count_flops
from .plan import Plan
from .results import Run
from .rider import Rider
from .saved import SavedHead, backbone_settings, write_head


def cell_columns(plan: Plan, cell: Cell, kinds: Sequence[str]) -> dict[str, Any]:
    """Return the columns of the results that say what a cell is."""
    manifest = plan.data.store.manifest
    return {
        "cell": cell.name,
        "store": str(plan.data.store.path),
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
    }


def rider_rows(plan: Plan, rider: Rider) -> list[dict[str, Any]]:
    """Return the results of a group, one row a cell; `selected` is decided over the whole run."""
    group, course, head = rider.group, rider.course, rider.group.cells[0].head
    shared = cost_columns(plan, group.cells[0], head.name, dict(head.settings), group.kinds) | {
        "batch_size": course.batch_size,
        "epochs": course.epochs,
        "train_seconds": group.seconds / len(group.cells),
    }
    return [
        cell_columns(plan, cell, group.kinds) | shared | tracker.row()
        for cell, tracker in zip(group.cells, rider.trackers, strict=True)
    ]


def save_heads(run: Run, plan: Plan, rider: Rider) -> None:
    """Write the heads of a group, each as it was after its best epoch; a cell that diverged at once has none."""
    for index, (cell, tracker) in enumerate(zip(rider.group.cells, rider.trackers, strict=True)):
        if tracker.epochs:
            state, head = rider.group.best_state(index), cell.head
            save_head(run, plan, cell, state, head.name, dict(head.settings), rider.group.kinds)


def cost_columns(
    plan: Plan, cell: Cell, name: str, settings: Mapping[str, Any], kinds: Sequence[str]
) -> dict[str, int]:
    """Return what a head costs: its parameters, and operations for one image."""
    shape = plan.input_shape(cell)
    with torch.device("meta"):
        pooling = build_pooling(name, dim=shape.dim, grid=shape.grid, **settings)
        head = Head(pooling, plan.data.n_classes)
    n_tokens = sum(prod(shape.row_shape(kind)[:-1]) for kind in kinds)
    flops: Flops = count_flops(head, n_tokens, shape.dim)
    return {"n_params": head.n_params(), "flops_forward": flops.forward, "flops_train": flops.train}


def save_head(
    run: Run,
    plan: Plan,
    cell: Cell,
    state: Mapping[str, Tensor],
    name: str,
    settings: Mapping[str, Any],
    kinds: Sequence[str],
    *,
    logits: bool = True,
) -> None:
    """Write the head of a cell: a pooling by name, its settings, and its state."""
    store, shape = plan.data.store, plan.input_shape(cell)
    recipe = store.manifest.recipe
    about = SavedHead(
        head=name,
        settings=dict(settings),
        dim=shape.dim,
        grid=shape.grid,
        classes=list(plan.data.train.classes),
        multi_label=plan.data.multi_label,
        logits=logits,
        tokens=list(kinds),
        layers=list(cell.layers),
        norm=store.manifest.final_norm if plan.norm is not None else None,
        model=recipe.model,
        weights=recipe.weights,
        transform=recipe.transform,
        backbone=backbone_settings(store),
    )
    write_head(run.path, cell.name, state, about)
