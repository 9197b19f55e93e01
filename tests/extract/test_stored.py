"""Conversion of a layer's output to arrays, and the error for tokens that do not fit."""

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.extract.forward import Outputs
from tokenprobe.extract.stored import quantize, stored_arrays
from tokenprobe.store import quantize as numpy_version

KINDS = ["mean", "patch", "prefix"]
IDS = ["a", "b", "c"]


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, 4, generator=generator) * 10, torch.randn(3, 2, 4, generator=generator)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_are_rounded_once_to_the_stored_type(dtype: str) -> None:
    patch, prefix = tokens()
    arrays = stored_arrays(Outputs(patch, prefix, None), KINDS, dtype, {}, 0, IDS)
    np.testing.assert_array_equal(arrays["patch"], patch.numpy().astype(dtype), strict=True)
    np.testing.assert_array_equal(arrays["prefix"], prefix.numpy().astype(dtype), strict=True)


@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
def test_the_mean_is_taken_before_any_rounding_in_float32(computed: torch.dtype) -> None:
    patch, prefix = (values.to(computed) for values in tokens())
    mean = stored_arrays(Outputs(patch, prefix, None), KINDS, "float16", {}, 0, IDS)["mean"]
    assert mean.dtype == np.float32
    exact = patch.double().numpy().mean(1)
    # Eight terms of some tens: a few float32 roundings, far below the 1e-3 of a float16 or bfloat16 mean.
    np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-6)


def test_only_the_arrays_asked_for_are_made() -> None:
    patch, prefix = tokens()
    assert list(stored_arrays(Outputs(patch, prefix, None), ["prefix"], "float16", {}, 0, IDS)) == ["prefix"]
    assert sorted(stored_arrays(Outputs(patch, None, None), ["mean", "patch"], "float16", {}, 0, IDS)) == [
        "mean",
        "patch",
    ]


def test_an_embedding_stays_float32() -> None:
    patch, prefix = tokens()
    embedding = torch.randn(3, 5) * 1e5
    kinds = ["embedding", *KINDS]
    for dtype in ("float16", "bfloat16"):
        arrays = stored_arrays(Outputs(patch, prefix, embedding), kinds, dtype, {}, 0, IDS)
        np.testing.assert_array_equal(arrays["embedding"], embedding.numpy(), strict=True)


@pytest.mark.parametrize("kind", ["patch", "prefix"])
@pytest.mark.parametrize("value", [70000.0, -70000.0])
def test_a_token_that_overflows_names_layer_image_and_way_out(kind: str, value: float) -> None:
    patch, prefix = tokens()
    {"patch": patch, "prefix": prefix}[kind][1, 1, 2] = value
    message = r"^a token of 7e\+04 does not fit float16 \(layer 5, image 'b'\); store with --dtype bfloat16$"
    with pytest.raises(InputError, match=message):
        stored_arrays(Outputs(patch, prefix, None), KINDS, "float16", {}, 5, IDS)
    assert np.isfinite(stored_arrays(Outputs(patch, prefix, None), KINDS, "float32", {}, 5, IDS)[kind]).all()


def test_the_largest_float16_still_fits() -> None:
    patch = torch.full((1, 1, 1), 65504.0)
    assert stored_arrays(Outputs(patch, None, None), ["patch"], "float16", {}, 0, ["a"])["patch"].item() == 65504.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_value_that_is_not_finite_names_layer_and_image(value: float, dtype: str) -> None:
    patch, prefix = tokens()
    patch[2, 0, 0] = value
    message = r"^the backbone gave a value that is not finite \(layer 3, image 'c'\); try --amp off$"
    with pytest.raises(InputError, match=message):
        stored_arrays(Outputs(patch, prefix, None), KINDS, dtype, {}, 3, IDS)


def test_bfloat16_is_stored_as_the_bits_that_torch_gives() -> None:
    patch, prefix = tokens()
    patch[0, 0, 0] = 70000.0  # beyond float16
    arrays = stored_arrays(Outputs(patch, prefix, None), KINDS, "bfloat16", {}, 0, IDS)
    assert arrays["patch"].dtype == np.uint16
    exact = patch.bfloat16().float().numpy()
    np.testing.assert_array_equal((arrays["patch"].astype(np.uint32) << 16).view(np.float32), exact)


def channels_of(values: torch.Tensor) -> torch.Tensor:
    x = values.flatten(0, 1)
    return torch.stack([x.mean(0), x.std(0)])


def test_int8_comes_with_a_scale_a_token() -> None:
    patch, prefix = tokens()
    channels = {"patch": channels_of(patch), "prefix": channels_of(prefix)}
    kinds = ["mean", "patch", "patch_scale", "prefix", "prefix_scale"]
    arrays = stored_arrays(Outputs(patch, prefix, None), kinds, "int8", channels, 0, IDS)
    assert {kind: (values.dtype.name, values.shape) for kind, values in arrays.items()} == {
        "mean": ("float32", (3, 4)),
        "patch": ("int8", (3, 8, 4)),
        "patch_scale": ("float16", (3, 8)),
        "prefix": ("int8", (3, 2, 4)),
        "prefix_scale": ("float16", (3, 2)),
    }
    mean, deviation = channels["patch"].double().numpy()
    restored = arrays["patch"] * arrays["patch_scale"].astype(float)[..., None] * deviation + mean
    # Half a step of 1/127 of the token's largest value, in deviations, and the rounding of the scale to float16.
    largest = np.abs((patch.double().numpy() - mean) / deviation).max(-1, keepdims=True)
    assert (np.abs(restored - patch.numpy()) <= largest * deviation * (0.5 / 127 + 2**-11)).all()


def test_quantising_on_the_device_and_in_numpy_agree_bit_for_bit() -> None:
    patch, _ = tokens()
    patch[0, 0] = 0
    patch[1, 1] *= 1e-6
    patch[:, :, 1] *= 100
    channels = channels_of(patch)
    ours, scale = quantize(patch, channels)
    theirs, their_scale = numpy_version.quantize(patch.numpy(), channels.numpy())
    np.testing.assert_array_equal(ours.numpy(), theirs)
    np.testing.assert_array_equal(scale.numpy(), their_scale)


def test_int8_must_fit_the_float16_that_it_comes_back_as() -> None:
    patch, _ = tokens()
    patch[1, 1, 2] = 70000.0
    with pytest.raises(InputError, match=r"does not fit int8 \(layer 5, image 'b'\); store with --dtype bfloat16$"):
        stored_arrays(
            Outputs(patch, None, None), ["patch", "patch_scale"], "int8", {"patch": channels_of(patch)}, 5, IDS
        )


def test_int8_must_not_lie_too_many_deviations_out() -> None:
    patch, _ = tokens()
    channels = torch.stack([patch.mean((0, 1)), torch.full((4,), 1e-7)])  # a channel that hardly ever changes
    with pytest.raises(InputError, match=r"does not fit int8 \(layer 5, image 'a'\); store with --dtype bfloat16$"):
        stored_arrays(Outputs(patch, None, None), ["patch", "patch_scale"], "int8", {"patch": channels}, 5, IDS)
