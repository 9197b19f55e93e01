"""Heads trained with the backbone in the loop, and all else as `probe fit` does it.

Every batch of training images goes through the backbone again, so no token is stored. `fit_online` takes the plan, the
order of rows, the heads and the training loop of the package. Only its streams differ: they compute the tokens that
`TokenStream` would read. Views are drawn as `probe extract` draws them. So a fit from a float32 store with as many
views must give the same numbers, but for rounding in batches of another size. `cache_cost.py` compares the two.

With as many views as epochs, every epoch sees a fresh crop of each image.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenprobe.extract import ExtractConfig
from tokenprobe.extract.listing import list_images
from tokenprobe.extract.loaded import load_configured, open_source
from tokenprobe.extract.loading import RowImages
from tokenprobe.extract.plan import augmentation_of
from tokenprobe.extract.views import normalise
from tokenprobe.probe import FitConfig
from tokenprobe.probe.batches.order import batch_sizes
from tokenprobe.probe.batches.stream import EVAL_BATCH, TokenStream
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.probe.fitting.group_fit import start_fit
from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.fitting.result_rows import group_rows
from tokenprobe.probe.fitting.streams import LayerStreams
from tokenprobe.probe.fitting.train import train_pass
from tokenprobe.probe.planning.layer_plan import LayerPlan, make_layer_plan
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.probe.run.made_from import claim, name_stores
from tokenprobe.probe.run.predictions import write_images
from tokenprobe.probe.run.results import Run, open_run
from tokenprobe.store import Split, open_store
from tokenprobe.store.order import RowNumbers


class Frozen:
    """A frozen backbone beside its images: tokens of any rows, computed when they are asked for."""

    def __init__(self, configs: Sequence[ExtractConfig], layer: int) -> None:
        """Load the backbone, and list the images of each split; the configs differ in their split and limit alone."""
        source = open_source(configs[0])
        self.layer, self.backbone = layer, load_configured(configs[0], source)
        self.rows = {name: each.rows for config in configs for name, each in list_images(config, source).items()}
        self._images = RowImages(source, self.rows, self.backbone.transform, augmentation_of(configs[0]))

    def tokens(self, split: str, rows: RowNumbers, view: int) -> dict[str, Tensor]:
        """Return the arrays that a store would hold: patch (B, N, D), prefix (B, P, D) and mean (B, D)."""
        pixels = torch.stack([self._pixels(split, int(row), view) for row in rows])
        with torch.no_grad():
            tokens = self.backbone.tokens(normalise(pixels, self.backbone.transform), [self.layer])
        patch, prefix = tokens[self.layer]
        found = {"patch": patch, "mean": patch.mean(1)}
        return found if prefix is None else found | {"prefix": prefix, "cls": prefix[:, :1]}

    def _pixels(self, split: str, row: int, view: int) -> Tensor:
        pixels = self._images.pixels(split, row, view)
        assert isinstance(pixels, Tensor), pixels
        return pixels


class OnlineStream(TokenStream):
    """Batches as `TokenStream` gives them, of tokens that the backbone computes meanwhile."""

    def __init__(self, frozen: Frozen, split: Split, kinds: Sequence[str], views: int) -> None:
        """Serve a split. Each training pass takes the next of `views` views, and an evaluation view 0."""
        assert list(frozen.rows[split.name].ids) == list(split.ids)
        self.split, self._frozen, self._wanted = split, frozen, list(kinds)
        self._views, self._epoch, self._scored = views, 0, list[TokenBatch]()

    def batches(
        self,
        windows: Sequence[RowNumbers],
        batch_size: int,
        *,
        drop_last: bool,
        view: int = 0,
        kinds: Sequence[str] = (),
    ) -> Iterator[TokenBatch]:
        """Yield the training batches of an epoch, in float32. `view` is that of the store, which does not matter."""
        view, self._epoch = self._epoch % self._views, self._epoch + 1
        order = np.concatenate(windows)
        cuts = np.cumsum([0, *batch_sizes(len(order), batch_size, drop_last=drop_last)])
        return (self._batch(order[start:stop], view, kinds) for start, stop in pairwise(cuts))

    def in_order(self, rows: RowNumbers, kinds: Sequence[str] = ()) -> Iterator[TokenBatch]:
        """Yield the batches of an evaluation. The same ones come after every epoch, so they are kept."""
        if not self._scored:
            self._scored = [
                self._batch(part, 0, kinds) for part in np.split(rows, range(EVAL_BATCH, len(rows), EVAL_BATCH))
            ]
        return iter(self._scored)

    def _batch(self, rows: RowNumbers, view: int, kinds: Sequence[str]) -> TokenBatch:
        arrays = self._frozen.tokens(self.split.name, rows, view)
        return TokenBatch(
            {kind: arrays[kind] for kind in kinds or self._wanted}, torch.from_numpy(self.split.labels[rows])
        )


class OnlineStreams(LayerStreams):
    """The streams of one pass."""

    def __init__(self, layer: LayerPlan, frozen: Frozen, views: int) -> None:
        """Open a stream per row set."""
        data = layer.plan.data
        self._rows = layer.rows
        self._open = {name: OnlineStream(frozen, data.split_of(name), layer.kinds, views) for name in layer.rows}


def fit_online(configs: Sequence[ExtractConfig], store: Path, config: FitConfig, views: int) -> Run:
    """Train heads on one layer with the backbone in the loop, on the CPU.

    Args:
        configs: extractions of the splits of `store`.
        store: any store of these images. Labels, ids and the order of rows come from it, and no token.
        config: the settings of the fit.
        views: views per training image; as many as epochs gives a fresh crop in every epoch.
    """
    machine = make_machine(config)
    with open_run(Path(config.out)) as run:
        (plan,) = name_stores(run, [make_plan(open_store(store), config, machine.precision)])
        claim(run, [plan], "cpu")
        (layers,) = plan.grid.layers
        layer = make_layer_plan(plan, machine, layers, run.finished)
        frozen = Frozen(configs, next(iter(layers)))
        with FitProgress(layer.n_cells) as progress:
            for groups in layer.passes:
                fits = [start_fit(plan, group, machine.device) for group in groups]
                kept = Checkpoint(run.path, ["online", *(cell.name for group in groups for cell in group.cells)])
                train_pass(plan, fits, OnlineStreams(layer, frozen, views), kept, progress)
                write_images(run.path, plan.name, plan.data)
                run.add([r for f in fits for r in group_rows(plan, f)], [row for f in fits for row in f.history])
    return run
