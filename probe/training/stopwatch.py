"""A stopwatch for a device's work, in wall-clock and CPU time.

A GPU does its work after the host hands it over, so there events are timed.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds between the start and the end of each piece of work on the device.

    Attributes:
        cpu_seconds: CPU time of this process over all its threads; for a GPU, while the host hands over work.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        """Begin with seconds that were measured before."""
        self._device, self._seconds, self.cpu_seconds = device, seconds, cpu_seconds
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @property
    def seconds(self) -> float:
        """All seconds so far. Waits for a GPU."""
        self._add_pending(wait=True)
        return self._seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the work in a `with` block, done or handed to a GPU, if the block ends without an error."""
        cpu_start = time.process_time()
        if self._device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            self.cpu_seconds += time.process_time() - cpu_start
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(stream)
        yield
        end.record(stream)
        self.cpu_seconds += time.process_time() - cpu_start
        self._pending.append((begin, end))
        self._add_pending(wait=False)  # keeps only the events that the device has not reached

    def _add_pending(self, *, wait: bool) -> None:
        while self._pending and (wait or self._pending[0][1].query()):
            begin, end = self._pending.popleft()
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
