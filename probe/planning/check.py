"""Checks before any token is read: settings in range, and heads that fit the tokens and the training set."""

from collections.abc import Sequence

from ...errors import InputError
from ...store.layout import PATCH, PREFIX
from ..batches.data import check_arrays
from ..batches.layer_set import STACK, LayerSet
from ..batches.norm import FinalNorm, is_derived
from ..batches.token_shape import stored_kind
from ..config import FitConfig
from ..grid.cells import make_solver
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
    if config.clip_grad is not None and config.clip_grad <= 0:
        raise InputError(f"clip_grad {config.clip_grad}: expected a norm above 0")
    if config.noise < 0 or not 0 < config.noise_prob <= 1:
        raise InputError(
            f"noise {config.noise}, noise_prob {config.noise_prob}: expected a deviation of 0 or more, and a "
            "probability above 0 and at most 1"
        )
    if config.warmup_epochs is not None and not 0 <= config.warmup_epochs < config.epochs:
        raise InputError(
            f"warmup_epochs {config.warmup_epochs}: expected 0 or more, and fewer than {config.epochs} epochs"
        )


def check_plan(plan: Plan) -> None:
    """Check that the heads fit the tokens and the training sets, and that layers can be joined or stacked.

    Raises:
        InputError: a head does not fit, or layers cannot be joined or stacked.
        StoreError: a layer is not completely written.
    """
    _check_solvers(plan)
    if plan.config.class_weights != "none" and plan.data.multi_label:
        raise InputError(
            f"class_weights {plan.config.class_weights!r}: an image of {str(plan.data.store.path)!r} may have several "
            "labels, and their loss has no class weights; leave the option out"
        )
    for layers in plan.grid.layers:
        _check_norm(plan, layers)
        for head in plan.grid.heads:
            _check_together(plan, head, layers)
        wanted = [(head.label, _stored_inputs(plan, head, layers)) for head in plan.grid.heads]
        check_arrays(plan.data, layers, wanted)


def _check_solvers(plan: Plan) -> None:
    for regime in plan.grid.regimes:
        for group in plan.grid.solved_groups(plan.grid.layers[0], regime):
            try:
                make_solver(group.cells).check(len(regime.train_rows))
            except InputError as error:
                raise InputError(f"{error} (shots {regime.shots})") from error


def _check_norm(plan: Plan, layers: LayerSet) -> None:
    if plan.data.norm is not None:
        norm = FinalNorm.from_json(plan.data.norm)
        for layer in layers:
            norm.check(layer, plan.data.train.shape(layer).dim)


def _check_together(plan: Plan, head: HeadSpec, layers: LayerSet) -> None:
    """Refuse to join channels of tokens at different places, and to stack layers of different widths or grids.

    Means and embeddings have no place and always join.
    """
    shapes = [plan.data.train.shape(layer) for layer in layers]
    kinds = {stored_kind(kind) for kind in head.inputs(plan.data.shape(layers))}
    grids, prefixes = {shape.grid for shape in shapes}, {shape.n_prefix for shape in shapes}
    if (PATCH in kinds and len(grids) > 1) or (PREFIX in kinds and len(prefixes) > 1):
        listed = _listed(layers, [f"{shape.grid[0]}×{shape.grid[1]} + {shape.n_prefix}" for shape in shapes])
        way, example = ("stack", "ep:tokens=mean") if layers.stacked else ("join", "linear:pool=mean")
        raise InputError(
            f"head {head.label!r} cannot {way} layers {layers.text!r}: they differ in grid or prefix tokens "
            f"({listed}); heads that read means can {way} them, such as {example}"
        )
    if layers.stacked and len({shape.dim for shape in shapes}) > 1:
        listed = _listed(layers, [str(shape.dim) for shape in shapes])
        raise InputError(
            f"layers {layers.text!r} have tokens of different widths ({listed}) and cannot be stacked; join their "
            f"channels: {layers.text.removeprefix(STACK)}"
        )


def _listed(layers: LayerSet, facts: Sequence[str]) -> str:
    return ", ".join(f"{layer}: {fact}" for layer, fact in zip(layers, facts, strict=True))


def _stored_inputs(plan: Plan, head: HeadSpec, layers: LayerSet) -> list[str]:
    """Return the stored arrays that a head needs. A mean over normed tokens needs the patch tokens too."""
    kinds = head.inputs(plan.data.shape(layers))
    normed = plan.data.norm is not None
    return [*kinds, PATCH] if any(is_derived(kind, normed=normed) for kind in kinds) else [*kinds]
