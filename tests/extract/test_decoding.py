"""The stop-watch over decoding, on a stream of known times."""

import time
from collections.abc import Iterator

import torch

from tokenprobe.extract.decoding import BadImage, Decoding, Loaded


def slowly(n_batches: int, seconds: float) -> Iterator[Loaded | BadImage]:
    for _ in range(n_batches):
        time.sleep(seconds)
        yield Loaded(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), 0.25)
    yield BadImage("train", "a", "why")


def test_what_waits_for_images_is_bound_by_decoding() -> None:
    decoding = Decoding()
    seen = list(decoding.watch(slowly(4, 0.02)))
    assert [isinstance(batch, BadImage) for batch in seen] == [False] * 4 + [True]
    assert decoding.n_images == 12
    assert decoding.images_per_core_second == 12.0
    assert decoding.waited >= 0.06, "the first batch apart"
    assert decoding.is_bound


def test_what_works_longer_than_it_waits_is_not_bound_by_decoding() -> None:
    decoding = Decoding()
    for _ in decoding.watch(slowly(4, 0.0)):
        assert not decoding.is_bound
        time.sleep(0.05)
    assert decoding.elapsed >= 0.2
    assert not decoding.is_bound
