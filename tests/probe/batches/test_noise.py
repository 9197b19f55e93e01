"""Noise on training tokens: its size, its probability, and what it depends on."""

import torch

from tokenprobe.probe.batches.noise import with_noise
from tokenprobe.probe.batches.token_batch import TokenBatch

LABELS = torch.arange(64)


def batch_of(*kinds: str) -> TokenBatch:
    return TokenBatch({kind: torch.ones(64, 20, 16, dtype=torch.float16) for kind in kinds}, LABELS)


def test_noise_has_the_deviation_and_mean_zero() -> None:
    noisy = with_noise(batch_of("patch"), 0.05, 1.0, (0, 0, 0))
    noise = noisy.arrays["patch"] - 1
    n = noise.numel()
    assert noise.dtype == torch.float32 and noisy.labels is LABELS
    assert abs(float(noise.mean())) < 5 * 0.05 / n**0.5
    assert abs(float(noise.std()) / 0.05 - 1) < 5 / (2 * n) ** 0.5


def test_the_probability_is_that_of_a_batch() -> None:
    clean = batch_of("mean")
    found = [
        with_noise(clean, 0.1, 0.3, (5, epoch, number)) is not clean for epoch in range(20) for number in range(50)
    ]
    assert abs(sum(found) / 1000 - 0.3) < 5 * (0.3 * 0.7 / 1000) ** 0.5
    assert with_noise(clean, 0.0, 1.0, (0, 0, 0)) is clean


def test_noise_depends_on_the_key_and_on_the_array_but_not_on_other_arrays() -> None:
    alone, beside = (
        with_noise(batch_of(*kinds), 0.1, 1.0, (0, 1, 2)).arrays for kinds in (["mean"], ["patch", "mean"])
    )
    assert torch.equal(alone["mean"], beside["mean"])
    assert not torch.equal(beside["patch"], beside["mean"])
    for key in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(with_noise(batch_of("mean"), 0.1, 1.0, key).arrays["mean"], alone["mean"])
