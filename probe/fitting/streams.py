"""The streams of one layer: training rows, subsets, validation and test, each kept where its plan says."""

import torch

from ...store.order import RowNumbers
from ..batches.data import SUBSETS, TEST, TRAIN, VAL
from ..batches.norm import FinalNorm
from ..batches.pieces import Rings
from ..batches.stream import TokenStream
from ..batches.subsets import FULL
from ..grid.regimes import Regime
from ..planning.layer_plan import LayerPlan


class LayerStreams:
    """The streams that the passes over one layer, or several joined, read."""

    def __init__(self, layer: LayerPlan, device: torch.device) -> None:
        """Read into memory the row sets that are kept there.

        Args:
            layer: the plan of the layer.
            device: where batches are wanted.
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
