"""The stop-watch over decoding, on a stream of known times."""

import time
from collections.abc import Iterator

import torch

from tokenprobe.extract.decoded import BadImage, DecodedBatch, DecodeSpeed


def slowly(n_batches: int, seconds: float) -> Iterator[DecodedBatch | BadImage]:
    for _ in range(n_batches):
        time.sleep(seconds)
        yield DecodedBatch(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), 0.25)
    yield BadImage("train", "a", "why")


def test_what_waits_for_images_is_bound_by_decoding() -> None:
    decode_speed = DecodeSpeed()
    seen = list(decode_speed.watch(slowly(4, 0.02)))
    assert [isinstance(batch, BadImage) for batch in seen] == [False] * 4 + [True]
    assert decode_speed.n_images == 12
    assert decode_speed.images_per_core_second == 12.0
    assert decode_speed.waited >= 0.06, "the first batch apart"
    assert decode_speed.is_bound


def test_what_works_longer_than_it_waits_is_not_bound_by_decoding() -> None:
    decode_speed = DecodeSpeed()
    for _ in decode_speed.watch(slowly(4, 0.0)):
        assert not decode_speed.is_bound
        time.sleep(0.05)
    assert decode_speed.elapsed >= 0.2
    assert not decode_speed.is_bound
