"""Conversions against torch's own."""

import pytest
import torch

from tokenprobe.probe.heads import rounding
from tokenprobe.probe.heads.rounding import convert, convert_into, rounds

TYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("source", TYPES)
def test_numbers_and_order_in_memory_are_those_of_torchs_conversion(source: torch.dtype, dtype: torch.dtype) -> None:
    values = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(source)
    for of_order in (values, values.transpose(0, 1), values[:, 1:], values[:1].expand(7, 5, 4)):
        found, expected = convert(of_order, dtype), of_order.to(dtype)
        assert torch.equal(found, expected) and found.dtype == dtype and found.stride() == expected.stride()
    assert (convert(values, dtype) is values) == (source == dtype)


def test_many_numbers_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MOST_NUMBERS", 2 * 20 + 1)
    values, target = torch.randn(5, 4, 5), torch.empty(5, 4, 5, dtype=torch.bfloat16)
    convert_into(target, values)
    assert torch.equal(target, values.bfloat16())


def test_torchs_own_operations_round_on_a_cpu() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not rounds(torch.empty(1))
