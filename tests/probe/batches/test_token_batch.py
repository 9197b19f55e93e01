"""Batches of tokens: joined as asked, and once for all who ask."""

import pytest
import torch
from torch import Tensor

from tokenprobe.probe.batches.token_batch import TokenBatch

N, PREFIX, DIM = 6, 2, 4


@pytest.fixture
def arrays() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    patch, prefix = (torch.randn(3, n, DIM, generator=draw).half() for n in (N, PREFIX))
    return {"patch": patch, "prefix": prefix, "mean": torch.randn(3, DIM, generator=draw)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_arrays_are_joined_in_the_order_asked(arrays: dict[str, Tensor], dtype: torch.dtype) -> None:
    found = TokenBatch(arrays, torch.arange(3)).joined(("prefix", "mean", "patch"), dtype)
    assert found.dtype == dtype and found.shape == (3, PREFIX + 1 + N, DIM)
    for image in range(3):
        expected = [*arrays["prefix"][image], arrays["mean"][image], *arrays["patch"][image]]
        assert all(torch.equal(token, one.to(dtype)) for token, one in zip(found[image], expected, strict=True))


def test_a_conversion_is_made_once_and_none_if_there_is_nothing_to_convert(arrays: dict[str, Tensor]) -> None:
    batch = TokenBatch(arrays, torch.arange(3))
    joined = batch.joined(("prefix", "patch"), torch.float32)
    assert batch.joined(("prefix", "patch"), torch.float32) is joined
    patch = batch.joined(("patch",), torch.float32)
    assert batch.joined(("patch",), torch.float32) is patch
    assert batch.joined(("patch",), torch.float16) is arrays["patch"]
    assert batch.joined(("mean",), torch.float32).data_ptr() == arrays["mean"].data_ptr()


def test_labels_of_either_kind_give_the_length(arrays: dict[str, Tensor]) -> None:
    assert len(TokenBatch(arrays, torch.arange(3))) == len(TokenBatch(arrays, torch.zeros(3, 7))) == 3
