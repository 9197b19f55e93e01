"""The machine that a fit runs on: its device, precision and free memory."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import InputError
from ...runtime.device import resolve_device, resolve_precision
from ...runtime.workers import n_neighbours
from ..config import FitConfig
from .places import GPU, RAM

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Where a fit runs.

    Attributes:
        device: that trains.
        precision: "float32", or the type that matrix products are rounded to.
        cache: where patch tokens are kept: "gpu", "ram", "disk", or "auto" for the first with room.
    """

    device: torch.device
    precision: str
    cache: str

    @property
    def place(self) -> str:
        """The place whose memory training uses: GPU or RAM."""
        return GPU if self.device.type == "cuda" else RAM

    def free_bytes(self) -> dict[str, int]:
        """Return the bytes that are free now: RAM, and GPU if the machine trains on one."""
        of_gpu = {GPU: available_memory(self.device)} if self.place == GPU else {}
        return of_gpu | {RAM: available_ram()}


def make_machine(config: FitConfig) -> Machine:
    """Resolve the device, precision and cache of a config.

    Raises:
        InputError: the device is unknown or missing, or the cache is on a GPU but training is not.
    """
    device = resolve_device(config.device)
    if config.cache == GPU and device.type != "cuda":
        raise InputError(f"cache 'gpu' needs a GPU, but the device is {str(device)!r}; give --cache ram or disk")
    return Machine(device, resolve_precision(config.amp, device), config.cache)


def available_memory(device: torch.device) -> int:
    """Return the free bytes of a device. On the CPU these can be used without swapping."""
    if device.type != "cuda":
        return available_ram()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def available_ram() -> int:
    """Return the bytes of memory that can be used without swapping: an equal share if torchrun started several
    processes on this machine.
    """
    return _available_ram() // n_neighbours()


def _available_ram() -> int:
    if not MEMINFO.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # macOS
    available = _entries(MEMINFO)["MemAvailable:"] * 1024
    limit, used, stat = (CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.exists() and limit.read_text().strip() != "max":  # in a container
        entries = _entries(stat)
        files = entries["active_file"] + entries["inactive_file"]  # cached file pages: the kernel frees them on demand
        available = min(available, int(limit.read_text()) - int(used.read_text()) + files)
    return available


def _entries(file: Path) -> dict[str, int]:
    """Read a file whose lines each hold a name and a number."""
    return {name: int(value) for name, value, *_ in map(str.split, file.read_text().splitlines())}
