"""What a solver is: a head that is fitted at once, from all features, instead of trained batch by batch.

n training images, m others, F features, C classes, H cells
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..heads.head import BATCH_NORM_EPS
from ..heads.pooling import PoolingSettings

POOLS = ("cls", "mean", "cls+mean", "embedding")
POOL = "The vector of an image: cls, mean, cls+mean (2D wide) or embedding."
"""What the setting `pool` means."""
CHUNK_ELEMENTS = 1 << 24
"""Numbers in the largest temporary array of any solver: 64 MiB in float32."""


Tell = Callable[[float], None]
"""Called during a fit with the part of it that is done since the last call, or 0; the parts sum to 1."""


class Work(NamedTuple):
    """Operations that a solver makes: a guess by formula, for estimates of time and for progress.

    Attributes:
        fit: to fit all cells, in the type `Solver.fit_dtype`.
        scores: to score them on other images, in float32.
    """

    fit: float
    scores: float


def keep_quiet(part: float) -> None:
    """Tell nobody."""


class Solver(ABC):
    """Fits H cells on the same features. Computes where the features are.

    Attributes:
        name: in the registry.
        summary: what it does, in one sentence.
        source: where it is published.
        own_settings: the settings that a head spec may give, with their defaults, the one that tells heads apart first.
        defaults: the same by name.
        optimizer: how it is solved, as results say it.
        fit_dtype: type of most of a fit's operations.
        penalties: the grid of penalties, one cell each; empty if there is nothing to penalise.
        votes: whether scores are shares of votes: 0 for a class without one, which is no guess.
        settings: of each cell, in the order of the axis H.
        decays: the penalty of each cell, in the same order.
        pool: which of the linear pooling's vectors are the features.
    """

    name: ClassVar[str]
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
            settings: of each cell, those that `defaults` names.
            decays: of each cell; 0 where there is nothing to penalise.

        Raises:
            InputError: a setting is not one that the solver can use.
        """
        self.settings, self.decays = list(settings), list(decays)
        self.pool: str = self.settings[0]["pool"]
        if self.pool not in POOLS:
            raise InputError(
                f"head {self.name!r}: pool={self.pool!r}, but it reads one stored vector an image: "
                f"{', '.join(POOLS)}; other poolings are for the head 'linear'"
            )

    def check(self, n_images: int) -> None:  # noqa: B027
        """Refuse, before anything is read, what cannot be fitted on n training images.

        Raises:
            InputError: there are too few.
        """

    @abstractmethod
    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """Return about how many operations it takes to fit on n images with F features, and to score m."""

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """Fit every cell.

        Args:
            features: (n, F) float32.
            labels: (n,) int64, or (n, C) of zeros and ones if an image has several.
            n_classes: C, of the data; some may be absent from `labels`.
            tell: called as the fit goes on, if it takes long.

        Raises:
            InputError: see `check`.
        """

    @abstractmethod
    def scores(self, features: Tensor) -> Iterator[Tensor]:
        """Yield the scores (b, H, C) of successive rows of `features`, (m, F); the larger, the likelier."""

    @abstractmethod
    def status(self, index: int) -> str:
        """Say in a few words how the fit of one cell ended."""

    def state(self, index: int) -> dict[str, Tensor] | None:
        """Return one cell as the state of a `Head` with a linear pooling, on the CPU, or None if it is not linear."""
        return None


class LinearSolver(Solver):
    """A solver whose cells are linear heads: scores = (x - mean) / sqrt(var + eps) · weightᵀ + bias.

    Attributes:
        logits: whether scores are those of a softmax or sigmoid; otherwise they estimate labels of 0 and 1.
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
    """Return how many rows of `width` numbers are worked on at a time."""
    return max(1, CHUNK_ELEMENTS // width)
