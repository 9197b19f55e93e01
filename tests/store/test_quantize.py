"""Stored types against torch and against naive formulas in float64."""

import re

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.store.quantize import (
    DTYPES,
    array_type,
    bfloat16_bits,
    channel_statistics,
    dequantize,
    from_bfloat16,
    quantize,
    stored_kinds,
    token_type,
)

RNG = np.random.default_rng(0)


def test_every_bfloat16_comes_back_as_torch_has_it_and_keeps_its_bits() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    values = from_bfloat16(bits)
    assert values.dtype == np.float32
    of_torch = torch.from_numpy(bits).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(values.view(np.uint32), of_torch.view(np.uint32))
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(bfloat16_bits(values)[numbers], bits[numbers])


def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    random = RNG.integers(0, 2**32, 1_000_000, dtype=np.uint32)  # numbers of every size, subnormals, infinities
    upper = np.arange(2**16, dtype=np.uint32) << 16
    ties = np.concatenate([upper + step for step in (0x7FFF, 0x8000, 0x8001)])
    values = np.concatenate([random, ties]).view(np.float32)
    values = values[~np.isnan(values)]
    of_torch = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(bfloat16_bits(values), of_torch, strict=True)
    assert np.isinf(from_bfloat16(of_torch)).sum() > np.isinf(values).sum()  # the largest values round up to infinity


def test_no_nan_becomes_a_number() -> None:
    patterns = np.concatenate([RNG.integers(0, 2**32, 100_000), [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001]])
    values = patterns.astype(np.uint32).view(np.float32)
    nans = values[np.isnan(values)]
    assert len(nans) > 100
    assert np.isnan(from_bfloat16(bfloat16_bits(nans))).all()


def test_what_stands_for_nothing_is_nan_or_no_level() -> None:
    assert np.isnan(from_bfloat16(np.array([DTYPES["bfloat16"].fill], np.uint16)))
    assert np.isnan(DTYPES["float16"].fill) and np.isnan(DTYPES["float32"].fill)
    tokens, _ = quantize(RNG.standard_normal((100, 16)) * 1e3, channels_of(np.eye(16)))
    assert tokens.min() == -127 and DTYPES["int8"].fill == -128


def tokens_with_outliers(n_images: int = 200) -> np.ndarray:
    """(n, 16, 64): as in a vision transformer, a few channels spread a hundred times as wide as the rest."""
    values = RNG.standard_normal((n_images, 16, 64))
    values[..., [5, 40]] *= 100
    values[..., 17] += 50
    return values


def channels_of(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1, values.shape[-1])
    return np.stack([flat.mean(0), flat.std(0)]).astype(np.float32)


def relative_error(read: np.ndarray, values: np.ndarray) -> float:
    """Return the median over tokens of the relative error, with channels weighted by their width."""
    width = values.std((0, 1))
    error = np.linalg.norm((read - values) / width, axis=-1) / np.linalg.norm(
        (values - values.mean((0, 1))) / width, axis=-1
    )
    return float(np.median(error))


def test_int8_is_the_formula() -> None:
    values = tokens_with_outliers(20)
    channels = channels_of(values)
    tokens, scale = quantize(values.astype(np.float32), channels)
    mean, deviation = channels.astype(np.float64)
    z = (values - mean) / deviation
    c = (np.abs(z).max(-1) / 127).astype(np.float16).astype(np.float64)[..., None]
    assert (tokens.dtype, scale.dtype) == (np.int8, np.float16)
    np.testing.assert_array_equal(scale, c[..., 0])
    steps = z / c
    assert np.abs(tokens - np.clip(steps, -127, 127)).max() <= 0.5001
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-3  # not at the edge between two levels
    np.testing.assert_array_equal(tokens[clear], np.clip(np.rint(steps), -127, 127)[clear])
    for dtype, tolerance in (("float64", 1e-5), ("float32", 1e-5), ("float16", 2**-10)):
        read = dequantize(tokens, scale, channels, dtype)
        assert read.dtype == dtype
        np.testing.assert_allclose(read, tokens * c * deviation + mean, rtol=tolerance, atol=tolerance)


def test_outlier_channels_cost_int8_less_than_one_percent_and_a_scale_by_token_alone_much_more() -> None:
    values = tokens_with_outliers()
    channels = channels_of(values[:50])
    tokens, scale = quantize(values.astype(np.float32), channels)
    assert relative_error(dequantize(tokens, scale, channels, np.float32), values) < 0.01
    by_token = np.abs(values).max(-1, keepdims=True) / 127
    assert relative_error(np.rint(values / by_token) * by_token, values) > 0.03


def test_constant_channels_and_tokens_of_zeros_come_back() -> None:
    values = RNG.standard_normal((50, 4, 8))
    values[..., 2] = 7.25
    values[..., 3] = 0
    sums = (values.sum((0, 1)), (values**2).sum((0, 1)))
    channels = channel_statistics(200, *sums)
    values[0] = channels[0]  # tokens equal to the mean
    tokens, scale = quantize(values.astype(np.float32), channels)
    read = dequantize(tokens, scale, channels, np.float32)
    np.testing.assert_allclose(read[..., 2:4], values[..., 2:4], rtol=1e-6)
    np.testing.assert_allclose(read[0], np.broadcast_to(channels[0], (4, 8)), rtol=1e-6)
    zeros, at_zero = quantize(np.zeros((3, 8), np.float32), np.stack([np.zeros(8), np.ones(8)]).astype(np.float32))
    assert not zeros.any() and not at_zero.any()
    assert not dequantize(zeros, at_zero, np.stack([np.zeros(8), np.ones(8)]).astype(np.float32), np.float16).any()


@pytest.mark.parametrize("size", [1e-8, 1e-4, 1e4])
def test_tokens_far_smaller_and_larger_than_the_statistics_keep_their_order_of_magnitude(size: float) -> None:
    """The first images differ from the rest. A float16 scale reaches down to 6e-8."""
    channels = np.stack([np.zeros(8), np.ones(8)]).astype(np.float32)
    values = (RNG.uniform(0.5, 1, (5, 8)) * RNG.choice([-1, 1], (5, 8)) * size).astype(np.float32)
    tokens, scale = quantize(values, channels)
    read = dequantize(tokens, scale, channels, np.float32)
    assert np.isfinite(read).all()
    step = np.abs(values).max(-1, keepdims=True) / 127
    of_scale = np.maximum(step * 2**-11, 2**-25)  # half the distance of two float16 scales
    assert (np.abs(read - values) <= step / 2 + 127 * of_scale).all()


def test_a_token_too_far_out_for_a_scale_has_an_infinite_one() -> None:
    channels = np.stack([np.zeros(4), np.ones(4)]).astype(np.float32)
    values = np.array([[1e7, 1.0, -1e8, 0.0], [8e6, 1.0, -8e6, 0.0]], np.float32)
    assert np.isinf(quantize(values, channels)[1]).tolist() == [True, False]


def test_channel_statistics_are_mean_and_deviation() -> None:
    values = tokens_with_outliers(100).astype(np.float32).astype(np.float64)
    statistics = channel_statistics(1600, values.sum((0, 1)), (values**2).sum((0, 1)))
    assert (statistics.dtype, statistics.shape) == (np.float32, (2, 64))
    np.testing.assert_allclose(statistics[0], values.mean((0, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics[1], values.std((0, 1)), rtol=1e-5)


def test_a_channel_that_never_changes_has_a_deviation_of_one() -> None:
    values = np.full((1000, 3), [0.0, 1e4 + 1 / 3, -2.5])
    statistics = channel_statistics(1000, values.sum(0), (values**2).sum(0))
    np.testing.assert_allclose(statistics, np.array([[0, 1e4 + 1 / 3, -2.5], [1, 1, 1]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "spread"), [(0.0, 0.0), (0.0, 1e-9), (0.0, 9e-7), (3.0, 1e-7), (1e4, 0.0), (1e4, 1e-3), (-2e6, 0.1)]
)
def test_a_channel_that_hardly_changes_comes_back_and_spoils_no_other(mean: float, spread: float) -> None:
    """Its deviation is only rounding. If divided by it, a later change of half a unit would use all levels."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((400, 8))
    values[:, 3] = mean + spread * rng.choice([-1, 1], 400)
    channels = channel_statistics(400, values.sum(0), (values**2).sum(0))
    assert np.isfinite(channels).all()
    assert channels[1, 3] == 1
    later = rng.standard_normal((50, 8))
    later[:, 3] = mean + rng.choice([-0.5, 0, 0.5], 50)
    for tokens in (values, later):
        read = dequantize(*quantize(tokens.astype(np.float32), channels), channels, np.float32)
        step = np.abs((tokens - channels[0]) / channels[1]).max(-1, keepdims=True) / 127 * channels[1]
        rounding = 2.0**-22 * np.abs(channels[0])
        assert (np.abs(read - tokens) <= 0.6 * step + rounding).all()


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 2e-6), (1e3, 2e-3), (-50.0, 1e-4)])
def test_a_channel_that_changes_little_but_surely_keeps_its_own_deviation(mean: float, spread: float) -> None:
    values = mean + spread * np.tile([[-1.0], [1.0]], (200, 1))
    channels = channel_statistics(400, values.sum(0), (values**2).sum(0))
    np.testing.assert_allclose(channels[1], spread, rtol=1e-3)


def test_means_and_scales_are_never_quantised() -> None:
    for dtype in DTYPES:
        assert array_type("mean", dtype) is array_type("embedding", dtype) is DTYPES["float32"]
        assert array_type("patch", dtype) is array_type("prefix", dtype) is token_type(dtype) is DTYPES[dtype]
    assert array_type("patch_scale", "int8") is array_type("prefix_scale", "int8") is DTYPES["float16"]
    assert [each.name for each in DTYPES.values()] == list(DTYPES)


def test_int8_tokens_bring_their_scales() -> None:
    assert stored_kinds(["patch", "mean"], "float16") == ["mean", "patch"]
    assert stored_kinds(["patch", "prefix", "mean"], "int8") == [
        "mean",
        "patch",
        "patch_scale",
        "prefix",
        "prefix_scale",
    ]
    assert stored_kinds(["mean"], "int8") == ["mean"]


def test_an_unknown_dtype_lists_the_known_ones() -> None:
    message = "unknown dtype 'float8'; known: float32, float16, bfloat16, int8"
    with pytest.raises(InputError, match=re.escape(message)):
        token_type("float8")
