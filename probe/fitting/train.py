"""One pass: groups of cells train together on one stream of tokens and are scored together. It survives a crash."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import ceil
from typing import Any

from ...runtime.stopping import finishing, is_stopping, stop_here
from ...store.order import RowNumbers
from ..batches.layer_set import abbreviated
from ..batches.noise import with_noise
from ..batches.order import epoch_windows
from ..batches.stream import TokenStream
from ..grid.regimes import Regime
from ..planning.plan import Plan
from ..training.metrics import Counter, make_counter
from ..training.schedule import lr_factor
from .checkpoint import Checkpoint
from .damage import describe_damage
from .group_fit import GroupFit
from .progress import FitProgress
from .result_rows import rows_so_far
from .streams import LayerStreams


def train_pass(
    plan: Plan,
    fits: Sequence[GroupFit],
    streams: LayerStreams,
    checkpoint: Checkpoint,
    progress: FitProgress,
    kept: dict[str, Any] | None = None,
) -> None:
    """Train the groups of a pass to the end of their regimes. All regimes are scored equally often.

    Args:
        plan: of the store.
        fits: the groups at their start.
        streams: of the layer.
        checkpoint: of the pass.
        progress: told about every batch.
        kept: a state that `checkpoint` saved; the pass goes on from it.

    Raises:
        StoreError: a store was replaced since it was opened. No checkpoint holds anything from the new store.
    """
    regimes = list(dict.fromkeys(fit.regime for fit in fits))
    n_scorings = len(regimes[0].scored)
    first = _restore(fits, kept)
    images = [_n_images(plan, regimes, scoring) for scoring in range(n_scorings)]
    n_cells = sum(len(fit.group.cells) for fit in fits)
    name = f"layer {abbreviated(fits[0].group.cells[0].layer)},"
    with finishing(), progress.part(name, n_cells, sum(images), done=sum(images[:first]), noun="image"):
        for scoring in range(first, n_scorings):
            for regime in regimes:
                of_regime = [fit for fit in fits if fit.regime is regime]
                for epoch in regime.epochs_before(scoring):
                    _train_epoch(plan, of_regime, streams.train(regime), epoch, progress)
            _score(plan, fits, regimes, streams, scoring, progress)
            if checkpoint.due() or is_stopping():
                plan.data.check_unchanged()
                checkpoint.save({"scorings": scoring + 1, "groups": [fit.state() for fit in fits]})
                stop_here()
    for fit in fits:
        if fit.diverged_at_once:
            regime = fit.regime
            fit.explain(describe_damage(streams.train(regime), regime.train_rows, fit.group.kinds))


def _n_images(plan: Plan, regimes: Sequence[Regime], scoring: int) -> int:
    """Return the number of images for one scoring and for the training before it."""
    passes = [(regime, len(list(regime.epochs_before(scoring)))) for regime in regimes]
    trained = sum(n_passes * regime.n_steps * regime.batch_size for regime, n_passes in passes)
    return trained + sum(len(regime.val_rows) for regime in regimes) + len(plan.data.test)


def _restore(fits: Sequence[GroupFit], kept: dict[str, Any] | None) -> int:
    """Continue from a kept state, if there is one. Return how often the groups have been scored."""
    if kept is None:
        return 0
    for fit, state in zip(fits, kept["groups"], strict=True):
        fit.load_state(state)
    n_scorings: int = kept["scorings"]
    return n_scorings


def _train_epoch(plan: Plan, fits: Sequence[GroupFit], stream: TokenStream, epoch: int, progress: FitProgress) -> None:
    """Make one pass over the rows of a regime. Each of its groups trains on every batch."""
    regime, data = fits[0].regime, plan.data
    windows = epoch_windows(regime.train_rows, data.train.info.block_rows, plan.config.seed, epoch)
    batches = stream.batches(windows, regime.batch_size, drop_last=True, view=epoch % data.views, kinds=_kinds_of(fits))
    for number, clean in enumerate(batches):
        batch = with_noise(clean, plan.config.noise, plan.config.noise_prob, (plan.config.seed, epoch, number))
        factor = lr_factor(epoch + number / regime.n_steps, regime.epochs, regime.warmup_epochs)
        for fit in fits:
            fit.group.train_batch(batch, factor)
        progress.advance(len(batch.labels), _epoch_words(plan, regime, epoch + 1))


def _score(
    plan: Plan,
    fits: Sequence[GroupFit],
    regimes: Sequence[Regime],
    streams: LayerStreams,
    scoring: int,
    progress: FitProgress,
) -> None:
    """Score each group on its regime's validation rows, and all groups on the test split in one pass."""
    words = _epoch_words(plan, regimes[0], regimes[0].scored[scoring])
    count = partial(_count, plan, tell=lambda n_images: progress.advance(n_images, words))
    alive = [fit.group.retire() for fit in fits]
    vals: dict[int, Counter] = {}
    for regime in regimes:
        if len(regime.val_rows):
            of_regime = [fit for fit in fits if fit.regime is regime]
            counters = count(of_regime, streams.val(regime), regime.val_rows)
            vals |= {id(fit): counter for fit, counter in zip(of_regime, counters, strict=True)}
    tests = count(fits, streams.test, streams.test_rows, keeps=True)
    for fit, test, lives in zip(fits, tests, alive, strict=True):
        epoch = fit.regime.scored[scoring]
        history = fit.keep(epoch, vals.get(id(fit)), test, lives)
        progress.scored(rows_so_far(plan, fit, epoch), history)


def _count(
    plan: Plan,
    fits: Sequence[GroupFit],
    stream: TokenStream,
    rows: RowNumbers,
    tell: Callable[[int], None],
    *,
    keeps: bool = False,
) -> list[Counter]:
    counters = [make_counter(plan.data.n_classes, plan.data.multi_label, keeps=keeps) for _ in fits]
    for batch in stream.in_order(rows, _kinds_of(fits)):
        for fit, counter in zip(fits, counters, strict=True):
            fit.group.count_batch(counter, batch)
        tell(len(batch.labels))
    return counters


def _kinds_of(fits: Iterable[GroupFit]) -> list[str]:
    """Return the arrays that the groups read."""
    return sorted({kind for fit in fits for kind in fit.group.kinds})


def _epoch_words(plan: Plan, regime: Regime, n_passes: int) -> str:
    """Name a regime's epoch after `n_passes` passes over its rows. One epoch may have several passes."""
    return f"epoch {ceil(n_passes * plan.config.epochs / regime.epochs)}/{plan.config.epochs}"
