"""The contract of a solver: a head that is fitted at once, from all features, instead of trained batch by batch.

n training images, m others, F features, C classes, H cells
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ..heads.pooling import BATCH_NORM_EPS, PoolingSettings

POOLS = ("cls", "mean", "cls+mean", "embedding")
POOL = "The vector of an image: cls, mean, cls+mean (2D wide) or embedding."
"""The meaning of the setting `pool`."""
CHUNK_ELEMENTS = 1 << 24
"""Numbers in the largest temporary array of any solver: 64 MiB in float32."""


Tell = Callable[[float], None]
"""Called during a fit with the fraction of it done since the last call, or 0; the fractions sum to 1."""


class Work(NamedTuple):
    """Estimated numbers of operations of a solver, for estimates of time and for progress.

    Attributes:
        fit: to fit all cells, in the type `Solver.fit_dtype`.
        scores: to score them on other images, in float32.
    """

    fit: float
    scores: float


def keep_quiet(part: float) -> None:
    """Report no progress."""


class Solver(ABC):
    """Fits H cells on the same features, on the device of the features.

    Attributes:
        name: name in the registry.
        title: short name for tables and figures.
        summary: one sentence about the method.
        source: its publication.
        own_settings: the settings that a head spec may give, with their defaults, first the one that tells heads apart.
        defaults: the defaults by name.
        optimizer: the method, as the results name it.
        fit_dtype: dtype of most operations of a fit.
        penalties: the grid of penalties, one per cell; empty if the solver has no penalty.
        votes: whether scores are shares of votes; a class without a vote has 0 and is no guess.
        settings: settings of each cell, in the order of the axis H.
        decays: the penalty of each cell, in the same order.
        pool: the vectors of the linear pooling that are the features.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    own_settings: ClassVar[PoolingSettings]
    defaults: ClassVar[Mapping[str, Any]]
    optimizer: ClassVar[str]
    fit_dtype: ClassVar[torch.dtype] = torch.float64
    penalties: ClassVar[tuple[float, ...]] = ()
    votes: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Derive `defaults` from `own_settings`."""
        super().__init_subclass__()
        if hasattr(cls, "own_settings"):
            cls.defaults = asdict(cls.own_settings)

    def __init__(self, settings: Sequence[Mapping[str, Any]], decays: Sequence[float]) -> None:
        """Take the settings and the penalty of each cell; all read the same features.

        Args:
            settings: for each cell, the settings that `defaults` names.
            decays: penalty of each cell; 0 if the solver has none.

        Raises:
            InputError: the solver cannot use a setting.
        """
        self.settings, self.decays = list(settings), list(decays)
        self.pool: str = self.settings[0]["pool"]
        if self.pool not in POOLS:
            raise InputError(
                f"head {self.name!r}: pool={self.pool!r}, but it reads one stored vector an image: "
                f"{', '.join(POOLS)}; other poolings are for the head 'linear'"
            )

    def check(self, n_images: int) -> None:  # noqa: B027
        """Refuse a fit that is impossible on n training images, before any features are read.

        Raises:
            InputError: there are too few images.
        """

    @abstractmethod
    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """Estimate the operations to fit on n images with F features, and to score m images."""

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """Fit every cell.

        Args:
            features: (n, F) float32.
            labels: (n,) int64, or (n, C) of zeros and ones if an image has several.
            n_classes: C in the data; some classes may be absent from `labels`.
            tell: called during a fit that takes long.

        Raises:
            InputError: see `check`.
        """

    @abstractmethod
    def scores(self, features: Tensor) -> Iterator[Tensor]:
        """Yield the scores (b, H, C) of successive rows of `features`, (m, F); a larger score is likelier."""

    def left_out(
        self, features: Tensor, labels: Tensor, n_classes: int, folds: Tensor, tell: Tell = keep_quiet
    ) -> Tensor:
        """Score every image of a fold with a fit to the images outside of that fold. The last such fit stays.

        Args:
            features: as for `fit`.
            labels: as for `fit`.
            n_classes: as for `fit`.
            folds: (n,) int64, the fold of each image, counted from 0; -1 for images that every fit has.
            tell: called after each fit.

        Returns:
            Scores (m, H, C) of the m images that have a fold, in their order.
        """
        n_folds, scores_NHC = int(folds.max()) + 1, features.new_zeros(len(features), len(self.settings), n_classes)
        for fold in range(n_folds):
            out = folds == fold
            self.fit(features[~out], labels[~out], n_classes)
            scores_NHC[out] = torch.cat(list(self.scores(features[out])))
            tell(1 / n_folds)
        return scores_NHC[folds >= 0]

    def left_out_work(self, n_images: int, width: int, n_classes: int, n_folds: int) -> float:
        """Estimate the operations of `left_out`, in the type `fit_dtype`."""
        n_out = n_images // n_folds
        return n_folds * sum(self.work(n_images - n_out, n_out, width, n_classes))

    def losses(self, scores: Tensor, labels: Tensor) -> list[float] | None:
        """Return the mean loss of each cell, or None if scores have no loss.

        Args:
            scores: (m, H, C).
            labels: (m,) int64, or (m, C) of zeros and ones.
        """
        return None

    @abstractmethod
    def status(self, index: int) -> str:
        """Say in a few words how the fit of one cell ended."""

    def state(self, index: int) -> dict[str, Tensor] | None:
        """Return one cell as the state of a `Head` with a linear pooling, on the CPU, or None if it is not linear."""
        return None


class LinearSolver(Solver):
    """A solver whose cells are linear heads: scores = (x - mean) / sqrt(var + eps) · weightᵀ + bias.

    Attributes:
        logits: whether scores are logits of a softmax or sigmoid; otherwise they estimate labels of 0 and 1.
        mean: (F,) float32, shared by all cells; `fit` sets this and the others.
        var: (F,) float32, likewise.
        weight: (H, C, F) float32.
        bias: (H, C) float32.
    """

    logits: ClassVar[bool] = True
    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def pooling(self) -> dict[str, Any]:
        """Settings of the linear pooling with which `state` makes a head."""
        return {"pool": self.pool}

    def scores(self, features: Tensor) -> Iterator[Tensor]:
        """See `Solver.scores`."""
        n_cells, n_classes, width = self.weight.shape
        for x_BF in features.split(chunk_rows(max(width, n_cells * n_classes))):
            normed_BF = (self.prepare(x_BF) - self.mean) * (self.var + BATCH_NORM_EPS).rsqrt()
            scores_BX = torch.addmm(self.bias.flatten(), normed_BF, self.weight.flatten(0, 1).T)
            yield scores_BX.view(-1, n_cells, n_classes)

    def losses(self, scores: Tensor, labels: Tensor) -> list[float]:
        """See `Solver.losses`: the squared error of estimates, the log loss of logits; summed over several labels."""
        scores_MHC, n_classes = scores.double(), scores.shape[2]
        targets_MHC = (F.one_hot(labels, n_classes) if labels.ndim == 1 else labels)[:, None].expand_as(scores).double()
        if not self.logits:
            losses_MH = (scores_MHC - targets_MHC).square().sum(2)
        elif labels.ndim == 1:
            losses_MH = -(scores_MHC.log_softmax(2) * targets_MHC).sum(2)
        else:
            losses_MH = F.binary_cross_entropy_with_logits(scores_MHC, targets_MHC, reduction="none").sum(2)
        losses: list[float] = losses_MH.mean(0).tolist()
        return losses

    def scores_work(self, n_scored: int, width: int, n_classes: int) -> float:
        """Return the operations of `scores`."""
        return 2 * n_scored * len(self.settings) * width * n_classes

    def prepare(self, features: Tensor) -> Tensor:
        """Return the features as the pooling gives them to the head's BatchNorm."""
        return features

    def state(self, index: int) -> dict[str, Tensor]:
        """See `Solver.state`."""
        values = {
            "weight": self.weight[index],
            "bias": self.bias[index],
            "running_mean": self.mean,
            "running_var": self.var,
        }
        return {name: value.cpu().clone() for name, value in values.items()}


def chunk_rows(width: int) -> int:
    """Return the number of rows, of `width` numbers each, to process at a time."""
    return max(1, CHUNK_ELEMENTS // width)
