"""Scores of stacked cells, counted batch by batch.

    B images, H cells, C classes
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

TOP = 5


class Counter(ABC):
    """Counts over batches; scores at the end."""

    @abstractmethod
    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """Count one batch."""

    @abstractmethod
    def scores(self) -> list[dict[str, float]]:
        """Return the scores of each cell, fractions, the one that is selected on first."""


class AccuracyCounter(Counter):
    """Top-1 and top-5 accuracy, and top-1 meaned over the classes there are images of: "top1", "top5", "mean_class".

    With five classes or fewer top-5 is 1.
    """

    def __init__(self, n_classes: int) -> None:
        self._n_classes = n_classes
        self._images_C: Tensor | None = None

    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """See `Counter.add`; labels are (B,) int64."""
        hits_BHK = logits_BHC.topk(min(TOP, self._n_classes), dim=2).indices == labels[:, None, None]
        if self._images_C is None:
            self._images_C = labels.new_zeros(self._n_classes)
            self._top1_CH = labels.new_zeros(self._n_classes, logits_BHC.shape[1])
            self._top5_H = labels.new_zeros(logits_BHC.shape[1])
        self._images_C += labels.bincount(minlength=self._n_classes)
        self._top1_CH.index_add_(0, labels, hits_BHK[..., 0].to(labels.dtype))
        self._top5_H += hits_BHK.any(2).sum(0)

    def scores(self) -> list[dict[str, float]]:
        """See `Counter.scores`."""
        assert self._images_C is not None, "nothing was counted"
        images_C, top1_CH = self._images_C.cpu().double(), self._top1_CH.cpu().double()
        n_images, there = images_C.sum(), images_C > 0
        scores = {
            "top1": top1_CH.sum(0) / n_images,
            "top5": self._top5_H.cpu().double() / n_images,
            "mean_class": (top1_CH[there] / images_C[there, None]).mean(0),
        }
        return [dict(zip(scores, values, strict=True)) for values in torch.stack([*scores.values()], 1).tolist()]


class PrecisionCounter(Counter):
    """Mean average precision, over the classes that some image has: "map".

    Of one class it is the mean, over the images that have it, of the precision among all that score at least as high.
    """

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """See `Counter.add`; labels are (B, C) ones and zeros."""
        self._scores.append(logits_BHC.float().cpu())
        self._labels.append(labels.cpu())

    def scores(self) -> list[dict[str, float]]:
        """See `Counter.scores`."""
        scores_BHC, labels_BC = torch.cat(self._scores), torch.cat(self._labels)
        there = labels_BC.any(0)
        return [
            {"map": average_precision(scores_BC[:, there], labels_BC[:, there]).mean().item()}
            for scores_BC in scores_BHC.unbind(1)
        ]


def make_counter(n_classes: int, multi_label: bool) -> Counter:
    """Return what counts labels of a kind."""
    return PrecisionCounter() if multi_label else AccuracyCounter(n_classes)


def average_precision(scores_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Return the average precision of each class, (C,) float64; images of equal score count as found together."""
    found_BC, order_BC = scores_BC.sort(dim=0, descending=True)
    hits_BC = labels_BC.gather(0, order_BC).double()
    place_B1 = torch.arange(len(scores_BC), dtype=torch.long)[:, None]
    ends_BC = torch.ones_like(found_BC, dtype=torch.bool)
    ends_BC[:-1] = found_BC[1:] != found_BC[:-1]
    end_BC = torch.where(ends_BC, place_B1, len(scores_BC)).flip(0).cummin(0).values.flip(0)  # of its equals
    precision_BC = hits_BC.cumsum(0).gather(0, end_BC) / (end_BC + 1)
    return (hits_BC * precision_BC).sum(0) / hits_BC.sum(0)
