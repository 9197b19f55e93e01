"""The machine of a fit: what it resolves, and the memory that is free on it."""

import os
from pathlib import Path

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig
from tokenprobe.probe.planning import machine
from tokenprobe.probe.planning.machine import Machine, available_memory, available_ram, make_machine

CPU = torch.device("cpu")


def test_a_machine_is_resolved_from_a_config() -> None:
    made = make_machine(FitConfig(out="run", device="cpu", amp="bfloat16", cache="ram"))
    assert made == Machine(CPU, "bfloat16", "ram")
    assert made.place == "ram" and list(made.free_bytes()) == ["ram"]
    assert make_machine(FitConfig(out="run", device="cpu")).precision == "float32"
    assert Machine(torch.device("cuda", 0), "bfloat16", "auto").place == "gpu"


def test_tokens_on_a_gpu_that_does_not_train_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^cache 'gpu' needs a GPU, but the device is 'cpu'; give --cache ram or disk$"
    ):
        make_machine(FitConfig(out="run", device="cpu", cache="gpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_memory_that_torch_holds_unused_is_available() -> None:
    device = torch.device("cuda", 0)
    block = torch.empty(2**28, device=device)
    before = available_memory(device)
    del block
    assert available_memory(device) - before == pytest.approx(2**30, rel=0.01)


def test_available_memory_is_some_but_not_more_than_there_is() -> None:
    page, n_pages = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES"))
    assert 2**20 < available_ram() <= page * n_pages
    assert 2**20 < available_memory(CPU) <= page * n_pages


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("3000000", 3_000_000 - 2_500_000 + 1_200_000), ("max", 5_000 * 1024), ("9000000", 5_000 * 1024)],
)
def test_in_a_container_its_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    """What the kernel keeps there of files that were read is free to take."""
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    5000 kB\nHugePages_Free:  0\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 900000\nactive_file 200000\ninactive_file 1000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert available_ram() == expected


def test_without_such_files_a_quarter_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    page, n_pages = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES"))
    assert available_ram() == page * n_pages // 4
