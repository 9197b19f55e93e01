"""Accuracy of stacked cells, counted batch by batch."""

from torch import Tensor


class AccuracyCounter:
    """Counts top-1 and top-5 hits of H cells."""

    def __init__(self) -> None:
        self._n_images = 0
        self._top1: Tensor | int = 0
        self._top5: Tensor | int = 0

    def add(self, logits_BHC: Tensor, labels_B: Tensor) -> None:
        """Count one batch."""
        hits_BHK = logits_BHC.topk(min(5, logits_BHC.shape[2]), dim=2).indices == labels_B[:, None, None]
        self._top1 = self._top1 + hits_BHK[..., 0].sum(0)
        self._top5 = self._top5 + hits_BHK.any(2).sum(0)
        self._n_images += len(labels_B)

    def top1(self) -> list[float]:
        """Return the top-1 accuracy of each cell, a fraction."""
        return [hits / self._n_images for hits in Tensor.tolist(self._top1)]  # type: ignore[arg-type]

    def top5(self) -> list[float]:
        """Return the top-5 accuracy of each cell, a fraction; 1 with five classes or fewer."""
        return [hits / self._n_images for hits in Tensor.tolist(self._top5)]  # type: ignore[arg-type]
