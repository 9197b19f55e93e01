"""The stopwatch: on the CPU against a clock of the test's, on a GPU against waiting for it."""

import time
from itertools import count

import pytest
import torch

from tokenprobe.probe.training.stopwatch import Stopwatch


def test_seconds_are_summed_over_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(start=100, step=7)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch(torch.device("cpu"), 5.0)
    assert watch.seconds == 5
    for _ in range(3):
        with watch.running():
            next(ticks)  # 14 between beginning and end
    assert watch.seconds == 5 + 3 * 14


def test_cpu_time_is_what_this_process_works_and_not_what_it_waits() -> None:
    watch = Stopwatch(torch.device("cpu"), cpu_seconds=5.0)
    with watch.running():
        time.sleep(0.3)
    assert watch.seconds >= 0.3 and 5 <= watch.cpu_seconds < 5.2
    with watch.running():
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    assert 5.2 <= watch.cpu_seconds < 5.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_it_works_is_measured_and_not_what_it_is_handed() -> None:
    """Products that take the device long and the host no time: to a tenth of the time until all are done."""
    device = torch.device("cuda", 0)
    matrix = torch.randn(8192, 8192, device=device)
    watch, n_steps = Stopwatch(device), 20
    torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n_steps):
        with watch.running():
            torch.mm(matrix, matrix)
    torch.cuda.synchronize()
    assert watch.seconds == pytest.approx(time.perf_counter() - start, rel=0.1)
