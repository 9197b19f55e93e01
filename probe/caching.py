"""Where each body of rows is kept between epochs: on the GPU, in memory, or on the disk alone."""

from collections.abc import Mapping

GPU, RAM, DISK = "gpu", "ram", "disk"
TRAIN, SUBSETS, VAL, TEST = "train", "subsets", "val", "test"
FIRST = (TEST, VAL, SUBSETS, TRAIN)
"""What is worth keeping first: the test split is read for every scoring, a subset is small."""


def choose_places(cache: str, sizes: Mapping[str, int], room: Mapping[str, int]) -> dict[str, str]:
    """Decide where each body of rows is kept.

    Args:
        cache: "gpu", "ram" or "disk" for all of them, or "auto" for the first of these that has room.
        sizes: bytes of patch tokens of each of TRAIN, SUBSETS, VAL and TEST that there is. SUBSETS are rows of TRAIN.
        room: bytes that may be taken in GPU (if there is one) and RAM.
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
