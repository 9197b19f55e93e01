"""How long a device works on something, by the clock and in CPU time.

A GPU is handed its work and does it later: there, events are timed.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up seconds, as the device comes to the beginnings and ends of what it is handed.

    Attributes:
        cpu_seconds: CPU time of this process meanwhile, over all its threads; on a GPU, while it was handed the work.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        """Begin with what was measured before."""
        self._device, self._seconds, self.cpu_seconds = device, seconds, cpu_seconds
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @property
    def seconds(self) -> float:
        """All seconds so far. Waits for a GPU."""
        self._add_pending(wait=True)
        return self._seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is done, or handed to a GPU, in a `with` statement that ends without an error."""
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
        self._add_pending(wait=False)  # as many are kept as the device is behind

    def _add_pending(self, *, wait: bool) -> None:
        while self._pending and (wait or self._pending[0][1].query()):
            begin, end = self._pending.popleft()
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
