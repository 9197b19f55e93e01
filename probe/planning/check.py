"""Checks before any token is read: settings in range, and heads that fit the tokens and the training set."""

from ...errors import InputError
from ...store.layout import PATCH, PREFIX
from ..batches.data import check_arrays
from ..batches.norm import FinalNorm, is_derived
from ..config import FitConfig
from ..grid.cells import layers_text, make_solver
from ..grid.specs import HeadSpec
from .plan import Plan


def check_config(config: FitConfig) -> None:
    """Check the settings that need no store.

    Raises:
        InputError: a setting is out of range, alone or beside the others.
    """
    if not config.heads or not config.weight_decay:
        raise InputError("no head or no weight decay given: there is nothing to fit")
    if not all(lr > 0 for lr in config.lr) or not all(decay >= 0 for decay in config.weight_decay):
        raise InputError(
            f"lr {config.lr}, weight_decay {config.weight_decay}: expected rates above 0, decays of 0 or more"
        )
    if config.warmup_epochs is not None and not 0 <= config.warmup_epochs < config.epochs:
        raise InputError(
            f"warmup_epochs {config.warmup_epochs}: expected 0 or more, and fewer than {config.epochs} epochs"
        )


def check_plan(plan: Plan) -> None:
    """Check that the heads fit the tokens and the training sets, and that layers can be joined.

    Raises:
        InputError: a head does not fit, or layers cannot be joined.
        StoreError: a layer is not completely written.
    """
    _check_solvers(plan)
    for layers in plan.grid.layers:
        _check_norm(plan, layers)
        for head in plan.grid.heads:
            _check_joined(plan, head, layers)
        wanted = [(head.label, _stored_inputs(plan, head, layers)) for head in plan.grid.heads]
        check_arrays(plan.data, layers, wanted)


def _check_solvers(plan: Plan) -> None:
    for regime in plan.grid.regimes:
        for group in plan.grid.solved_groups(plan.grid.layers[0], regime):
            try:
                make_solver(group.cells).check(len(regime.train_rows))
            except InputError as error:
                raise InputError(f"{error} (shots {regime.shots})") from error


def _check_norm(plan: Plan, layers: tuple[int, ...]) -> None:
    if plan.data.norm is not None:
        norm = FinalNorm.from_json(plan.data.norm)
        for layer in layers:
            norm.check(layer, plan.data.train.shape(layer).dim)


def _check_joined(plan: Plan, head: HeadSpec, layers: tuple[int, ...]) -> None:
    """Refuse to join channels of tokens at different places. Means and embeddings have no place and always join."""
    shapes, kinds = [plan.data.train.shape(layer) for layer in layers], head.inputs(plan.data.shape(layers))
    grids, prefixes = {shape.grid for shape in shapes}, {shape.n_prefix for shape in shapes}
    if (PATCH in kinds and len(grids) > 1) or (PREFIX in kinds and len(prefixes) > 1):
        listed = ", ".join(
            f"{layer}: {shape.grid[0]}×{shape.grid[1]} + {shape.n_prefix}"
            for layer, shape in zip(layers, shapes, strict=True)
        )
        raise InputError(
            f"head {head.label!r} cannot join layers {layers_text(layers)!r}: they differ in grid or prefix tokens "
            f"({listed}); heads that read means can join them, such as linear:pool=mean"
        )


def _stored_inputs(plan: Plan, head: HeadSpec, layers: tuple[int, ...]) -> list[str]:
    """Return the stored arrays that a head needs. A mean over normed tokens needs the patch tokens too."""
    kinds = head.inputs(plan.data.shape(layers))
    normed = plan.data.norm is not None
    return [*kinds, PATCH] if any(is_derived(kind, normed=normed) for kind in kinds) else [*kinds]
