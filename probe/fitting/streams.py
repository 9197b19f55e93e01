"""The token streams of one layer: training rows, subsets, validation and test, each in its planned place."""

from collections.abc import Callable
from math import prod

import torch

from ...store.layout import PATCH
from ...store.order import RowNumbers
from ..batches.data import SUBSETS, TEST, TRAIN, VAL
from ..batches.norm import FinalNorm, is_derived
from ..batches.pieces import Rings
from ..batches.stream import TokenStream
from ..batches.subsets import FULL
from ..batches.token_shape import stored_kinds
from ..grid.regimes import Regime
from ..planning.layer_plan import LayerPlan
from ..planning.places import DISK


class LayerStreams:
    """The streams that passes read, of one set of layers."""

    def __init__(
        self, layer: LayerPlan, device: torch.device, tell: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Open the streams, and read the row sets that stay in memory.

        Args:
            layer: the plan of the layer.
            device: device of the batches.
            tell: called with the bytes read since the last call. They add up to `bytes_at_first`.
        """
        norm, self._rows = layer.plan.data.norm, layer.rows
        moved = None if norm is None else FinalNorm.from_json(norm).to(device)
        rings = Rings(device)
        self._open = {
            name: TokenStream(
                layer.plan.data.split_of(name),
                layer.layers,
                rows,
                layer.kinds,
                cache=layer.places[name],
                device=device,
                rings=rings,
                norm=moved,
                tell=tell,
            )
            for name, rows in layer.rows.items()
        }

    @property
    def test(self) -> TokenStream:
        """The test split."""
        return self._open[TEST]

    @property
    def test_rows(self) -> RowNumbers:
        """All rows of the test split."""
        return self._rows[TEST]

    def train(self, regime: Regime) -> TokenStream:
        """Return the stream of a regime's training rows."""
        return self._open[SUBSETS if regime.shots != FULL and SUBSETS in self._open else TRAIN]

    def val(self, regime: Regime) -> TokenStream:
        """Return the stream of a regime's validation rows."""
        return self._open[VAL] if VAL in self._open else self.train(regime)


def bytes_at_first(layer: LayerPlan) -> int:
    """Return the bytes that a layer's streams read when they open: kept arrays, and tokens for normed means."""
    data, shape = layer.plan.data, layer.plan.data.shape(layer.layers)
    total = 0
    for name, rows in layer.rows.items():
        split = data.split_of(name)
        for kind in stored_kinds(layer.kinds):
            if is_derived(kind, normed=data.norm is not None):
                total += len(rows) * data.row_bytes(layer.layers, [PATCH], name)
            elif kind not in layer.placed or layer.places[name] != DISK:
                total += len(rows) * prod(shape.row_shape(kind)) * split.dtype(kind).itemsize * split.info.views
    return total
