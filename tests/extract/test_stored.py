"""From a layer's output to arrays, and the error for what does not fit."""

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.extract.stored import stored_arrays

KINDS = ["mean", "patch", "prefix"]
IDS = ["a", "b", "c"]


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, 4, generator=generator) * 10, torch.randn(3, 2, 4, generator=generator)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_are_rounded_once_to_the_stored_type(dtype: str) -> None:
    patch, prefix = tokens()
    arrays = stored_arrays(patch, prefix, KINDS, dtype, 0, IDS)
    np.testing.assert_array_equal(arrays["patch"], patch.numpy().astype(dtype), strict=True)
    np.testing.assert_array_equal(arrays["prefix"], prefix.numpy().astype(dtype), strict=True)


@pytest.mark.parametrize("computed", [torch.float32, torch.bfloat16])
def test_the_mean_is_taken_before_any_rounding_in_float32(computed: torch.dtype) -> None:
    patch, prefix = (values.to(computed) for values in tokens())
    mean = stored_arrays(patch, prefix, KINDS, "float16", 0, IDS)["mean"]
    assert mean.dtype == np.float32
    exact = patch.double().numpy().mean(1)
    # Eight terms of some tens: a few float32 roundings, far below the 1e-3 of a float16 or bfloat16 mean.
    np.testing.assert_allclose(mean, exact, rtol=1e-6, atol=1e-6)


def test_only_the_arrays_asked_for_are_made() -> None:
    patch, prefix = tokens()
    assert list(stored_arrays(patch, prefix, ["prefix"], "float16", 0, IDS)) == ["prefix"]
    assert sorted(stored_arrays(patch, None, ["mean", "patch"], "float16", 0, IDS)) == ["mean", "patch"]


@pytest.mark.parametrize("kind", ["patch", "prefix"])
@pytest.mark.parametrize("value", [70000.0, -70000.0])
def test_a_token_that_overflows_names_layer_image_and_way_out(kind: str, value: float) -> None:
    patch, prefix = tokens()
    {"patch": patch, "prefix": prefix}[kind][1, 1, 2] = value
    message = r"^a token of 7e\+04 does not fit float16 \(layer 5, image 'b'\); store with --dtype float32$"
    with pytest.raises(InputError, match=message):
        stored_arrays(patch, prefix, KINDS, "float16", 5, IDS)
    assert np.isfinite(stored_arrays(patch, prefix, KINDS, "float32", 5, IDS)[kind]).all()


def test_the_largest_float16_still_fits() -> None:
    patch = torch.full((1, 1, 1), 65504.0)
    assert stored_arrays(patch, None, ["patch"], "float16", 0, ["a"])["patch"].item() == 65504.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_value_that_is_not_finite_names_layer_and_image(value: float, dtype: str) -> None:
    patch, prefix = tokens()
    patch[2, 0, 0] = value
    message = r"^the backbone gave a value that is not finite \(layer 3, image 'c'\); try --amp off$"
    with pytest.raises(InputError, match=message):
        stored_arrays(patch, prefix, KINDS, dtype, 3, IDS)
