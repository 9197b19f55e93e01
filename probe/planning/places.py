"""The place of each row set between epochs: the GPU, main memory, or only the disk."""

from collections.abc import Mapping

from ..batches.data import SUBSETS, TEST, TRAIN, VAL

GPU, RAM, DISK = "gpu", "ram", "disk"
FIRST = (TEST, VAL, SUBSETS, TRAIN)
"""Row sets in order of priority: every scoring reads the test split, and a subset is small."""


def choose_places(cache: str, sizes: Mapping[str, int], room: Mapping[str, int]) -> dict[str, str]:
    """Decide where each row set is kept.

    Args:
        cache: "gpu", "ram" or "disk" for all of them, or "auto" for the first of these that has room.
        sizes: bytes of patch tokens per row set. SUBSETS are rows of TRAIN.
        room: bytes that may be used on the GPU (if there is one) and in RAM.
    """
    if cache != "auto":
        return dict.fromkeys(sizes, cache)
    whole = sum(n_bytes for name, n_bytes in sizes.items() if name != SUBSETS or TRAIN not in sizes)
    for place, n_bytes in room.items():
        if whole < n_bytes:
            return dict.fromkeys(sizes, place)
    left, places = dict(room), {}
    for name in filter(sizes.__contains__, FIRST):
        places[name] = next((place for place, n_bytes in left.items() if sizes[name] < n_bytes), DISK)
        if places[name] != DISK:
            left[places[name]] -= sizes[name]
    return places
