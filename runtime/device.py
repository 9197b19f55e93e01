"""Which device runs the work, and in which precision: decided here for both stages."""

import torch

from ..errors import InputError


def resolve_device(asked: str) -> torch.device:
    """Return the device that is asked for, and no other.

    A CUDA device always carries its index: torch's autograd engine refuses tensors on "cuda" without one.

    Args:
        asked: "auto" (CUDA where torch finds it), "cpu", "cuda" (the current device) or "cuda:N".

    Raises:
        InputError: torch knows no such device, or finds none.
    """
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    means_current = n_devices and asked in ("auto", "cuda")  # to ask for it starts CUDA
    return choose_device(asked, n_devices, torch.cuda.current_device() if means_current else 0)


def choose_device(asked: str, n_devices: int, current: int) -> torch.device:
    """Return the device that is asked for on a machine with `n_devices` CUDA devices.

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
    """Return "float32", or the type that matrix products are rounded to.

    Args:
        amp: "auto", "off", "bfloat16" or "float16"; "auto" is bfloat16 on CUDA and off elsewhere.
        device: that computes.
    """
    if amp == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return "float32" if amp == "off" else amp
