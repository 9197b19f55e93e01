"""Kinds of tensors: a float weight of the backbone accepts only floats of sixteen bits or more."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.extract.backbones.weights.kinds import fault_of, is_finite

OURS, COUNT = torch.zeros(2, 2), torch.tensor(0)


class OfAnother(Tensor):
    pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_are_weights(dtype: torch.dtype) -> None:
    assert fault_of(torch.ones(2, 2, dtype=dtype), OURS) == ""
    assert fault_of(torch.ones(2, 2, dtype=dtype), None) == ""
    assert fault_of(nn.Parameter(torch.ones(2, 2, dtype=dtype)), OURS) == ""


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_are_weights_where_the_backbone_has_integers(dtype: torch.dtype) -> None:
    assert fault_of(torch.ones((), dtype=dtype), COUNT) == ""
    assert fault_of(torch.ones((), dtype=dtype), torch.zeros(())) == f"of type {dtype}"
    assert fault_of(torch.ones((), dtype=dtype), None) == f"of type {dtype}"


KINDS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "complex": (lambda: torch.ones(2, 2, dtype=torch.complex64), "complex, torch.complex64"),
    "float8": (lambda: torch.ones(2, 2).to(torch.float8_e4m3fn), "of type torch.float8_e4m3fn"),
    "float8 of another": (lambda: torch.ones(2, 2).to(torch.float8_e5m2), "of type torch.float8_e5m2"),
    "qint8": (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 0.01, 0, torch.qint8), "quantized, torch.qint8"),
    "sparse": (lambda: torch.ones(2, 2).to_sparse(), "sparse, torch.sparse_coo"),
    "csr": (lambda: torch.ones(2, 2).to_sparse_csr(), "sparse, torch.sparse_csr"),
    "meta": (lambda: torch.ones(2, 2, device="meta"), "without values, on torch's meta device"),
    "uint16": (lambda: torch.ones(2, 2).to(torch.uint16), "of type torch.uint16"),
    "subclass": (lambda: torch.ones(2, 2).as_subclass(OfAnother), "a OfAnother instead of a plain tensor"),
}


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [OURS, COUNT, None])
def test_all_else_is_named(kind: str, own: Tensor | None) -> None:
    make, words = KINDS[kind]
    assert fault_of(make(), own) == words


def test_values_must_be_finite_in_the_backbones_type() -> None:
    assert is_finite(torch.tensor([1.0, -3e38]), torch.float32)
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not is_finite(torch.tensor([1.0, value]), torch.float32)
    assert not is_finite(torch.tensor([1e300], dtype=torch.float64), torch.float32)
    assert not is_finite(torch.tensor([1e5]), torch.float16)
    assert is_finite(torch.tensor([1e5]), torch.bfloat16)
    assert is_finite(torch.tensor([7]), torch.int64)
