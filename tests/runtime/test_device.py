"""The choice of device, with its index, on a machine with any number of GPUs."""

from typing import Any

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.runtime.device import choose_device, computing, resolve_device, resolve_precision


@pytest.mark.parametrize(
    ("asked", "n_devices", "current", "expected"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 1, 0, "cuda:0"),
        ("auto", 4, 2, "cuda:2"),
        ("cuda", 1, 0, "cuda:0"),
        ("cuda", 4, 3, "cuda:3"),
        ("cuda:1", 4, 3, "cuda:1"),
        ("cpu", 4, 3, "cpu"),
        ("cpu:0", 0, 0, "cpu"),
    ],
)
def test_a_cuda_device_carries_its_index(asked: str, n_devices: int, current: int, expected: str) -> None:
    """Autograd's engine asserts that a CUDA device has an index, so a device without one must not get through."""
    device = choose_device(asked, n_devices, current)
    assert str(device) == expected
    assert device.type == "cpu" or device.index is not None


@pytest.mark.parametrize(
    ("asked", "n_devices", "message"),
    [
        ("gpu", 1, r"^unknown device 'gpu'; expected auto, cpu, cuda or cuda:N$"),
        ("mps", 1, r"^unknown device 'mps'; expected auto, cpu, cuda or cuda:N$"),
        ("cuda", 0, r"^device 'cuda' asked for, but torch finds 0 CUDA device\(s\)$"),
        ("cuda:1", 1, r"^device 'cuda:1' asked for, but torch finds 1 CUDA device\(s\)$"),
    ],
)
def test_a_device_that_is_not_there_is_refused(asked: str, n_devices: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_device(asked, n_devices, 0)


def test_this_machine_is_looked_at() -> None:
    expected = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    assert str(resolve_device("auto")) == expected
    with pytest.raises(InputError, match=r"^device 'cuda:99' asked for, but torch finds \d+ CUDA device\(s\)$"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("amp", "device", "expected"),
    [
        ("auto", "cpu", "float32"),
        ("auto", "cuda:0", "bfloat16"),
        ("off", "cuda:0", "float32"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float16", "cuda:0", "float16"),
    ],
)
def test_precision(amp: str, device: str, expected: str) -> None:
    assert resolve_precision(amp, torch.device(device)) == expected


def test_float32_on_a_gpu_switches_the_rounding_of_convolutions_off_and_on_again() -> None:
    """By the switches that the program uses: torch raises an error where both kinds are mixed."""
    cudnn: Any = torch.backends.cudnn
    assert cudnn.allow_tf32
    with computing(torch.device("cuda", 0), "float32"):
        assert not cudnn.allow_tf32
        with cudnn.flags(enabled=True):
            pass
    assert cudnn.allow_tf32
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "ieee"
    try:
        with computing(torch.device("cuda", 0), "float32"):
            assert cudnn.conv.fp32_precision == "ieee"
        assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "ieee")
    finally:
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = before
    assert cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_have_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    with computing(torch.device("cpu"), precision):
        assert (torch.ones(2, 3) @ torch.ones(3, 2)).dtype == dtype


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_float32_convolution_on_a_gpu_is_exact() -> None:
    """TF32 would be off by about 1e-3."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator) / 24
    with computing(torch.device("cuda", 0), "float32"):
        found = torch.nn.functional.conv2d(x.cuda(), weight.cuda()).cpu()
    expected = torch.nn.functional.conv2d(x.double(), weight.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
