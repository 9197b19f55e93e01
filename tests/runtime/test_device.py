"""The choice of device, with its index, on a machine with any number of GPUs."""

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.runtime.device import choose_device, resolve_device, resolve_precision


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
