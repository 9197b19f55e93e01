"""Gaussian noise on the tokens of training batches."""

import hashlib

import torch

from .token_batch import TokenBatch


def with_noise(batch: TokenBatch, deviation: float, probability: float, key: tuple[int, ...]) -> TokenBatch:
    """Return a batch with noise on its tokens, in float32, or the same batch.

    Noise belongs to a batch, like the order of the images: all cells see the same. An array's noise does not depend on
    the other arrays of the batch, so a head trains on the same tokens alone and beside others.

    Args:
        batch: on the training device.
        deviation: standard deviation of the noise; 0 for none.
        probability: that a batch gets noise.
        key: seed, epoch and number of the batch. They determine the noise on one kind of device.
    """
    if not deviation or _number(*key) >= probability * 2**63:
        return batch
    arrays = {}
    for kind, clean in batch.arrays.items():
        generator = torch.Generator(clean.device).manual_seed(_number(*key, kind))
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        arrays[kind] = clean.float() + deviation * noise
    return TokenBatch(arrays, batch.labels)


def _number(*key: object) -> int:
    """Return a number below 2⁶³ that looks random, from a key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8]) >> 1
