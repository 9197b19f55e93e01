"""The choice of device and precision, for both stages, and computing in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError


def resolve_device(asked: str) -> torch.device:
    """Return the device asked for, or raise an error.

    A CUDA device always has an index: torch's autograd engine refuses tensors on "cuda" without one.

    Args:
        asked: "auto" (CUDA if torch finds it), "cpu", "cuda" (the current device) or "cuda:N".

    Raises:
        InputError: torch does not know the device, or does not find it.
    """
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    means_current = n_devices and asked in ("auto", "cuda")  # asking for the current device starts CUDA
    return choose_device(asked, n_devices, torch.cuda.current_device() if means_current else 0)


def choose_device(asked: str, n_devices: int, current: int) -> torch.device:
    """Return the device asked for, on a machine with `n_devices` CUDA devices.

    Args:
        asked: as in `resolve_device`.
        n_devices: number of CUDA devices.
        current: index of the CUDA device that "cuda" means.

    Raises:
        InputError: the name is unknown, or the machine lacks the device.
    """
    if asked == "auto":
        asked = "cuda" if n_devices else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {asked!r}; expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    index = current if device.index is None else device.index
    if index >= n_devices:
        raise InputError(f"device {asked!r} asked for, but torch finds {n_devices} CUDA device(s)")
    return torch.device("cuda", index)


def resolve_precision(amp: str, device: torch.device) -> str:
    """Return the precision of matrix products: "float32", "bfloat16" or "float16".

    Args:
        amp: "auto", "off", "bfloat16" or "float16"; "auto" is bfloat16 on CUDA and off elsewhere.
        device: of the computation.
    """
    if amp == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return "float32" if amp == "off" else amp


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """Compute matrix products and convolutions in a precision of `resolve_precision`, or in float64.

    Without this, cuDNN rounds factors of float32 convolutions to TF32, which has ten bits. torch's default for matrix
    products is exact.
    """
    if precision in ("bfloat16", "float16"):
        with torch.autocast(device.type, getattr(torch, precision)):
            yield
    elif device.type == "cuda":
        with _exact_convolutions():
            yield
    else:
        yield


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Switch TF32 off in cuDNN, by the same one of torch's two kinds of switches as the program: they do not mix."""
    switch: Any = torch.backends.cudnn
    off: Any = False
    try:
        name, kept = "allow_tf32", switch.allow_tf32
    except RuntimeError:  # the program has used the newer switches
        switch, off = switch.conv, "ieee"
        name, kept = "fp32_precision", switch.fp32_precision
    setattr(switch, name, off)
    try:
        yield
    finally:
        setattr(switch, name, kept)
