"""Scores of stacked cells, counted batch by batch.

B images, H cells, C classes
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 5


class Counter(ABC):
    """Takes the logits of H cells batch by batch; a cell's scores depend on its own logits alone.

    An image with a logit that is not finite, from a damaged token or an overflow, counts as a miss and ranks last. The
    score `unscored` counts such images.
    """

    @abstractmethod
    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """Count one batch.

        Args:
            logits_BHC: (B, H, C) floating point; they may hold NaN or infinity.
            labels: (B,) int64, or (B, C) for multi-label data, on the device of the logits.
        """

    @abstractmethod
    def scores(self) -> list[dict[str, float]]:
        """Return the scores of each cell over all batches: fractions by name, and `unscored`, a number of images."""

    def predicted(self) -> Tensor | None:
        """Return the class that each cell gives each image, or None if an image has several labels.

        Returns:
            (H, n) integers on the CPU, the images in the order of the batches. -1 is no class: the image has a score
            that is not finite, or no class has a vote.
        """
        return None


class AccuracyCounter(Counter):
    """Counts the hits of each class.

    Scores: `top1`; `top5`, which is 1 with five classes or fewer; `mean_class`, the mean of the classes' top-1
    accuracies over the classes that have images.
    """

    def __init__(self, n_classes: int, *, votes: bool = False, keeps: bool = False) -> None:
        """Count for labels 0 to `n_classes` - 1.

        Args:
            n_classes: number of classes in the data.
            votes: whether scores are shares of votes: a class without a vote is no guess.
            keeps: whether to keep the class of each image, for `predicted`: two or four bytes per image and cell.
        """
        self._n_classes, self._votes = n_classes, votes
        self._dtype = torch.int16 if n_classes <= torch.iinfo(torch.int16).max else torch.int32
        self._predicted: list[Tensor] | None = [] if keeps else None
        self._n_C = self._top1_CH = self._top5_H = self._unscored_H = torch.tensor(0)

    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """See `Counter.add`."""
        best = logits_BHC.topk(min(TOP, self._n_classes), dim=2)
        hits_BHK = best.indices == labels[:, None, None]
        wide = torch.promote_types(logits_BHC.dtype, torch.float32)
        finite_BH = logits_BHC.sum(2, dtype=wide).isfinite()  # takes no memory for a mask as large as the logits
        guess_BHK = finite_BH[..., None]
        if self._votes:
            guess_BHK = guess_BHK & (best.values > 0)
        hits_BHK &= guess_BHK
        if self._predicted is not None:
            top_BH = best.indices[..., 0].masked_fill(~guess_BHK[..., 0], -1)
            self._predicted.append(top_BH.to(self._dtype))
        self._unscored_H = self._unscored_H + finite_BH.logical_not().sum(0)
        no_hits_CH = labels.new_zeros(self._n_classes, logits_BHC.shape[1])
        self._top1_CH = self._top1_CH + no_hits_CH.index_add_(0, labels, hits_BHK[..., 0].long())
        self._top5_H = self._top5_H + hits_BHK.any(2).sum(0)
        self._n_C = self._n_C + labels.bincount(minlength=self._n_classes)

    def scores(self) -> list[dict[str, float]]:
        """See `Counter.scores`."""
        n_images, present_C = int(self._n_C.sum()), self._n_C > 0
        of_class_CH = self._top1_CH[present_C].double() / self._n_C[present_C, None]
        found = zip(
            (self._top1_CH.sum(0).double() / n_images).tolist(),
            (self._top5_H.double() / n_images).tolist(),
            of_class_CH.mean(0).tolist(),
            self._unscored_H.tolist(),
            strict=True,
        )
        return [dict(zip(("top1", "top5", "mean_class", "unscored"), of_cell, strict=True)) for of_cell in found]

    def predicted(self) -> Tensor | None:
        """See `Counter.predicted`. None too if the counter was not asked to keep classes."""
        return None if self._predicted is None else torch.cat(self._predicted).T.contiguous().cpu()


class PrecisionCounter(Counter):
    """Keeps the logits of multi-label data, on the CPU in float32, to rank the images for each class.

    Score: `map`, the mean of the average precision over the classes that some image shows. Average precision is the sum
    over thresholds n of (R_n - R_{n-1}) P_n, with recall R_n and precision P_n among the images that score at least
    as high. Images with equal scores share a threshold.
    """

    def __init__(self) -> None:
        """Start without images."""
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """See `Counter.add`."""
        self._logits.append(logits_BHC.to("cpu", torch.float32))
        self._labels.append(labels.to("cpu", torch.bool))

    def scores(self) -> list[dict[str, float]]:
        """See `Counter.scores`."""
        labels_nC = torch.cat(self._labels)
        shown_C = labels_nC.any(0)
        n_cells = self._logits[0].shape[1]
        found = []
        for cell in range(n_cells):
            logits_nC = torch.cat([logits_BHC[:, cell] for logits_BHC in self._logits])
            unscored_n = ~logits_nC.isfinite().all(1)
            ranked_nC = logits_nC.masked_fill(unscored_n[:, None], -torch.inf)
            precision = average_precisions(ranked_nC, labels_nC)[shown_C].mean()
            found.append({"map": float(precision), "unscored": int(unscored_n.sum())})
        return found


def average_precisions(logits_nC: Tensor, labels_nC: Tensor) -> Tensor:
    """Return the average precision of each class, (C,) float64, from logits without NaN.

    Images with equal scores pass the threshold together, so each has the precision of the last of them. The mean of
    these precisions over the positive images equals the sum over thresholds.
    """
    sorted_nC, order_nC = logits_nC.sort(dim=0, descending=True)
    hits_nC = labels_nC.gather(0, order_nC).double()
    place_n1 = torch.arange(len(logits_nC))[:, None]
    precision_nC = hits_nC.cumsum(0) / (place_n1 + 1)
    ends_nC = F.pad(sorted_nC[1:] != sorted_nC[:-1], (0, 0, 0, 1), value=True)  # a difference of infinities is NaN
    last_nC = torch.where(ends_nC, place_n1, len(logits_nC)).flip(0).cummin(0).values.flip(0)
    return (hits_nC * precision_nC.gather(0, last_nC)).sum(0) / hits_nC.sum(0)


def make_counter(n_classes: int, multi_label: bool, *, votes: bool = False, keeps: bool = False) -> Counter:
    """Return the counter for labels of `n_classes` classes, with one or any number of labels per image.

    Args:
        n_classes: number of classes in the data.
        multi_label: whether an image has any number of labels.
        votes: whether scores are shares of votes.
        keeps: whether `Counter.predicted` is asked for later.
    """
    return PrecisionCounter() if multi_label else AccuracyCounter(n_classes, votes=votes, keeps=keeps)
