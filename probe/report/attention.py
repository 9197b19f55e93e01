r"""Measures of attention maps, and their queries merged into parts.

    B images, M maps (queries), N places, K parts

A map a_m is a distribution over places: it is not negative and sums to 1. Then

    entropy          H(a)   = -sum_n a_n log a_n / log N            0: one place;  1: all places alike
    overlap          o(a,b) = sum_n min(a_n, b_n)                   0: disjoint;   1: equal
    complementarity  c_m    = 1 - mean_{k≠m} o(a_m, a_k)

and the complementarity of a head is the mean of c_m over maps and images: one minus the mean pairwise overlap.

Parts come from k-means over queries. The vector of a query is its map on every image, so a query has one part on all
images, and colours agree over images. The vectors are square roots, so distances are Hellinger's: sharp and blurred
maps count alike. The start is the query farthest from the mean, then always the one farthest from all centres. So
nothing is drawn, and the same maps give the same parts.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_PARTS = 4
N_STEPS = 100


def as_distributions(weights: Array) -> Array:
    """Divide (…, N) by its sum over places; weights without any become uniform."""
    sums = weights.sum(-1, keepdims=True)
    divided: Array = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), 1 / weights.shape[-1])
    return divided


def entropy(maps: Array) -> Array:
    """Return the entropy (…) of maps (…, N), in parts of its largest value log N; 0 where there is one place."""
    logs = np.log(np.where(maps > 0, maps, 1))
    found: Array = -(maps * logs).sum(-1) / max(np.log(maps.shape[-1]), 1e-12) + 0.0  # not -0
    return found


def complementarity(maps_BMN: Array) -> Array:
    """Return the complementarity (B, M) of each map with the others; NaN if there is one map."""
    n_maps = maps_BMN.shape[1]
    if n_maps == 1:
        return np.full(maps_BMN.shape[:2], np.nan)
    of_map = [np.minimum(maps_BMN[:, [m]], maps_BMN).sum(-1).sum(1) - maps_BMN[:, m].sum(-1) for m in range(n_maps)]
    found: Array = 1 - np.stack(of_map, axis=1) / (n_maps - 1)
    return found


def find_parts(maps_BMN: Array) -> NDArray[np.int64]:
    """Return the part (M,) of each query, from 0: at most `MOST_PARTS`, in the order of their first queries."""
    vectors = np.sqrt(maps_BMN).transpose(1, 0, 2).reshape(maps_BMN.shape[1], -1)
    centres = vectors[[_distances(vectors, vectors.mean(0, keepdims=True))[:, 0].argmax()]]
    while len(centres) < min(MOST_PARTS, len(vectors)):
        nearest = _distances(vectors, centres).min(1)
        if nearest.max() < 1e-12:  # equal queries
            break
        centres = np.concatenate([centres, vectors[[nearest.argmax()]]])
    parts = _distances(vectors, centres).argmin(1)
    for _ in range(N_STEPS):
        centres = np.stack([vectors[parts == part].mean(0) for part in np.unique(parts)])
        before, parts = parts, _distances(vectors, centres).argmin(1)
        if (parts == before).all():
            break
    order = list(dict.fromkeys(parts.tolist()))
    return np.array([order.index(part) for part in parts.tolist()])


def merge(maps_BMN: Array, parts: NDArray[np.int64]) -> Array:
    """Return the mean map (B, K, N) of each part."""
    return np.stack([maps_BMN[:, parts == part].mean(1) for part in range(parts.max() + 1)], axis=1)


def _distances(vectors: Array, centres: Array) -> Array:
    """Return squared distances (vectors, centres)."""
    squared: Array = np.stack([((vectors - centre) ** 2).sum(-1) for centre in centres], axis=-1)
    return squared
