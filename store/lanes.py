"""A few threads, each with a short queue: work given to one lane is done in order, lanes run side by side."""

from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Any

Job = tuple[Callable[..., None], tuple[Any, ...]]


class Lanes:
    """Ordered background work with bounded queues.

    The first failure stops all work that is still queued; it is raised by the next `put` or `join`.
    """

    def __init__(self, n_lanes: int, queued: int) -> None:
        """Start `n_lanes` threads that each let `queued` jobs wait."""
        self._failure: BaseException | None = None
        self._queues: list[Queue[Job | None]] = [Queue(queued) for _ in range(n_lanes)]
        self._threads = [Thread(target=self._work, args=(queue,), daemon=True) for queue in self._queues]
        for thread in self._threads:
            thread.start()

    def put(self, lane: int, call: Callable[..., None], *arguments: Any) -> None:
        """Queue a call on a lane; wait while its queue is full."""
        self._raise_failure()
        self._queues[lane % len(self._queues)].put((call, arguments))

    def join(self) -> None:
        """Do what is queued, end the threads, and raise what failed. May be called again."""
        self.stop()
        self._raise_failure()

    def stop(self) -> None:
        """Do what is queued and end the threads, silently."""
        for queue, thread in zip(self._queues, self._threads, strict=True):
            if thread.is_alive():
                queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, queue: "Queue[Job | None]") -> None:
        # After a failure the queue is still emptied, so that nobody waits at a full one for ever.
        while (job := queue.get()) is not None:
            if self._failure is None:
                call, arguments = job
                try:
                    call(*arguments)
                except BaseException as error:
                    self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
