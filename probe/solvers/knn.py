"""Weighted nearest neighbours: no training at all.

The protocol is that of arXiv 1805.01978, section 3.4 (as in DINO, arXiv 2104.14294): features of unit length, the k
nearest by cosine similarity s among all training images, each with a vote of exp(s/T) for its label. One search
serves every k and T. Votes are divided by their sum. This changes no ranking and makes the scores the weighted mean of
the neighbours' labels. The code uses exp((s - s_max)/T), which gives the same quotient and cannot overflow. A class
without a vote is no guess: with k = 1, top-5 is top-1.

    n training images, b query images, F features, C classes, k neighbours
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ..heads.pooling import PoolingSettings
from .contract import POOL, Solver, Tell, Work, chunk_rows, keep_quiet

QUERY_ROWS = 256
"""Queries at a time. More would cut a bank of 50,000 into parts, and every part needs a selection of its own."""
LEAST_VOTE = 2.0**-100
"""Smallest vote, for votes that float32 would round to 0: far below the sum of votes, which is at least 1."""


@dataclass(frozen=True)
class KNNSettings(PoolingSettings):
    """Settings of the nearest neighbours."""

    k: Annotated[int, "Neighbours that vote; at most as many as there are training images."] = 20
    temperature: Annotated[float, "T of a vote's weight exp(cosine/T); above 0."] = 0.07
    pool: Annotated[str, POOL] = "mean"


class KNN(Solver):
    """k nearest neighbours; the cells are all values of k and temperatures on the same features."""

    name = "knn"
    title = "k-NN"
    summary = "The nearest training images vote, weighted by cosine similarity."
    source = "arXiv 1805.01978, section 3.4; arXiv 2104.14294"
    own_settings = KNNSettings()
    optimizer = "none"
    fit_dtype = torch.float32
    votes = True

    def __init__(self, settings: Sequence[Mapping[str, Any]], decays: Sequence[float]) -> None:
        """See `Solver`."""
        super().__init__(settings, decays)
        for of_cell in self.settings:
            for key in ("k", "temperature"):
                if not of_cell[key] > 0:
                    raise InputError(f"head 'knn': expected {key} > 0, got {key}={of_cell[key]!r}")
        self.most = max(of_cell["k"] for of_cell in self.settings)

    def check(self, n_images: int) -> None:
        """See `Solver.check`."""
        if self.most > n_images:
            raise InputError(
                f"head 'knn': k={self.most} neighbours of {n_images} training images; give k of at most {n_images}"
            )

    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """See `Solver.work`: every image is compared with every other."""
        return Work(fit=3 * n_images * width, scores=2 * n_scored * n_images * width)

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """See `Solver.fit`."""
        self.check(len(features))
        self.bank_NF, self.labels, self.n_classes = F.normalize(features), labels, n_classes

    def scores(self, features: Tensor) -> Iterator[Tensor]:
        """See `Solver.scores`."""
        rows = min(QUERY_ROWS, chunk_rows(len(self.settings) * self.n_classes), max(1, len(features)))
        scratch = features.new_empty(rows * min(chunk_rows(rows), len(self.bank_NF)))
        for x_BF in features.split(rows):
            similarity_BK, nearest_BK = nearest(F.normalize(x_BF), self.bank_NF, self.most, scratch)
            voted: dict[tuple[int, float], Tensor] = {}
            for temperature, ks in self._ks().items():
                weights_BK = ((similarity_BK - similarity_BK[:, :1]) / temperature).exp().clamp_min(LEAST_VOTE)
                found = vote(weights_BK, nearest_BK, self.labels, self.n_classes, ks)
                voted |= {(k, temperature): scores for k, scores in found.items()}
            yield torch.stack([voted[s["k"], s["temperature"]] for s in self.settings], dim=1)

    def left_out(
        self, features: Tensor, labels: Tensor, n_classes: int, folds: Tensor, tell: Tell = keep_quiet
    ) -> Tensor:
        """See `Solver.left_out`. A fit with fewer than k images asks all of them."""
        n_fewest = len(folds) - int(folds[folds >= 0].bincount().max())
        fewer = KNN([{**settings, "k": min(settings["k"], n_fewest)} for settings in self.settings], self.decays)
        return Solver.left_out(fewer, features, labels, n_classes, folds, tell)

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        return f"searched {len(self.bank_NF)} images"

    def _ks(self) -> dict[float, set[int]]:
        """Return every requested k, by temperature."""
        ks: dict[float, set[int]] = {}
        for settings in self.settings:
            ks.setdefault(settings["temperature"], set()).add(settings["k"])
        return ks


def nearest(x_BF: Tensor, bank_NF: Tensor, k: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Find the k rows of a bank with the largest inner products.

    The search takes the best of each part of the bank, and then the best of these.

    Args:
        x_BF: queries.
        bank_NF: the bank.
        k: at most n.
        scratch: memory for the products, for one query and row of the bank at least. Fresh memory for every call would
            cost a tenth of the search.

    Returns:
        Their inner products (b, k), largest first, and their indices (b, k), int64.
    """
    found, first = [], 0
    for part_PF in bank_NF.split(len(scratch) // len(x_BF)):
        products_BP = scratch[: len(x_BF) * len(part_PF)].view(len(x_BF), -1)
        best_BK, index_BK = largest(torch.mm(x_BF, part_PF.T, out=products_BP), min(k, len(part_PF)))
        found.append((best_BK, index_BK + first))
        first += len(part_PF)
    if len(found) == 1:
        return found[0]
    bests_BX, indices_BX = (torch.cat(of_parts, dim=1) for of_parts in zip(*found, strict=True))
    best_BK, chosen_BK = bests_BX.topk(k, dim=1)
    return best_BK, indices_BX.gather(1, chosen_BK)


def largest(values_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row, (b, k), largest first, and their columns.

    Columns are grouped by their number modulo n/g, g columns per group. The k largest values lie in the k groups with
    the largest maxima. So torch selects twice among sqrt(nk) numbers, which is cheaper than once among n.
    """
    n_rows, n_columns = values_BN.shape
    size = isqrt(n_columns // k)
    n_groups = n_columns // max(1, size)
    if size < 2:
        return values_BN.topk(k, dim=1)
    maxima_BG = values_BN[:, : size * n_groups].view(n_rows, size, n_groups).amax(1)
    groups_BK = maxima_BG.topk(k, dim=1, sorted=False).indices
    starts_S = n_groups * torch.arange(size, device=values_BN.device)
    rest_X = torch.arange(size * n_groups, n_columns, device=values_BN.device)
    columns_BX = torch.cat([(groups_BK[:, None] + starts_S[:, None]).flatten(1), rest_X.expand(n_rows, -1)], dim=1)
    best_BK, chosen_BK = values_BN.gather(1, columns_BX).topk(k, dim=1)
    return best_BK, columns_BX.gather(1, chosen_BK)


def vote(weights_BK: Tensor, nearest_BK: Tensor, labels: Tensor, n_classes: int, ks: set[int]) -> dict[int, Tensor]:
    """Return the weighted mean of the labels of the first k neighbours, (b, C), for each k.

    Every k is a prefix of the largest k. Votes of an image are added in the order of their ranks.

    Args:
        weights_BK: weights of the neighbours, nearest first.
        nearest_BK: the neighbours' indices into `labels`.
        labels: (n,) int64, or (n, C) of zeros and ones.
        n_classes: C.
        ks: numbers of neighbours, each at most K.
    """
    votes_BC = weights_BK.new_zeros(len(weights_BK), n_classes)
    totals_BK = weights_BK.cumsum(1)
    means: dict[int, Tensor] = {}
    for start, stop in pairwise([0, *sorted(ks)]):
        _add_votes(votes_BC, weights_BK[:, start:stop], nearest_BK[:, start:stop], labels)
        means[stop] = votes_BC / totals_BK[:, stop - 1, None]
    return means


def _add_votes(votes_BC: Tensor, weights_BK: Tensor, nearest_BK: Tensor, labels: Tensor) -> None:
    """Add the votes of some ranks, in their order.

    On a GPU no single sum adds two votes of one image: their order would vary.
    """
    if labels.ndim == 1 and votes_BC.device.type == "cpu":
        votes_BC.scatter_add_(1, labels[nearest_BK], weights_BK)
        return
    rows_B = torch.arange(len(votes_BC), device=votes_BC.device)
    for weight_B, nearest_B in zip(weights_BK.unbind(1), nearest_BK.unbind(1), strict=True):
        if labels.ndim == 1:
            votes_BC[rows_B, labels[nearest_B]] += weight_B
        else:
            votes_BC.addcmul_(weight_B[:, None], labels[nearest_B].to(votes_BC.dtype))
