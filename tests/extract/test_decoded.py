"""The stop-watch over decoding, on a stream of known times."""

import time
from collections.abc import Iterator

import torch

from tokenprobe.extract.decoded import BadImage, DecodedBatch, DecodeSpeed, Stopwatch

BAD = BadImage("train", "a", "why")


def slowly(n_batches: int, seconds: float) -> Iterator[DecodedBatch]:
    pixels = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    for _ in range(n_batches):
        time.sleep(seconds)
        yield DecodedBatch(pixels, [], 0.25)
    yield DecodedBatch(pixels[:0], [BAD, BadImage("train", "b", "why")], 0.0)


def test_what_waits_for_images_is_bound_by_decoding() -> None:
    decode_speed = DecodeSpeed()
    seen = list(decode_speed.watch(slowly(4, 0.02)))
    assert [isinstance(batch, BadImage) for batch in seen] == [False] * 4 + [True]
    assert seen[-1] == BAD, "the first of its batch"
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


def test_a_stopwatch_adds_up_its_blocks_and_no_time_between() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch:
            time.sleep(0.02)
        before = watch.seconds
        time.sleep(0.05)
        assert watch.seconds == before
    assert watch.seconds >= 0.04
