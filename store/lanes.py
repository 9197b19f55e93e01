"""A few threads, each with a short queue. One lane works in order; lanes run side by side."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

Job = tuple[Callable[..., object], tuple[Any, ...]]


class Lanes:
    """Ordered background work with bounded queues.

    After the first failure, queued work is dropped, and the next `put` or `join` raises the failure. A signal may raise
    an exception in the middle of `put`; afterwards `stop` still ends the threads. `queue.Queue` does not promise this:
    the exception can leave its lock held, and threads then wait forever.
    """

    def __init__(self, n_lanes: int, queued: int) -> None:
        """Start `n_lanes` threads, each with a queue of up to `queued` jobs."""
        self._failure: BaseException | None = None
        self._jobs: list[SimpleQueue[Job | Event | None]] = [SimpleQueue() for _ in range(n_lanes)]
        self._places: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(n_lanes)]
        self._threads = [Thread(target=self._work, args=(lane,), daemon=True) for lane in range(n_lanes)]
        for places, thread in zip(self._places, self._threads, strict=True):
            for _ in range(queued):
                places.put(None)
            thread.start()

    def put(self, lane: int, call: Callable[..., object], *arguments: Any) -> None:
        """Queue a call on a lane; wait while its queue is full."""
        self._raise_failure()
        lane %= len(self._jobs)
        self._places[lane].get()
        self._jobs[lane].put((call, arguments))

    def flush(self) -> None:
        """Wait until all queued work is done, and raise the first failure. More work may follow."""
        marks = [Event() for _ in self._jobs]
        for jobs, mark in zip(self._jobs, marks, strict=True):
            jobs.put(mark)
        for mark in marks:
            mark.wait()
        self._raise_failure()

    def join(self) -> None:
        """Finish the queued work, end the threads, and raise the first failure. May be called again."""
        self.stop()
        self._raise_failure()

    def stop(self) -> None:
        """Finish the queued work and end the threads. Raises no failure."""
        for jobs in self._jobs:
            jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        # After a failure the queue is still emptied, or a `put` into a full queue would wait forever.
        while (job := self._jobs[lane].get()) is not None:
            if isinstance(job, Event):
                job.set()
                continue
            self._places[lane].put(None)
            if self._failure is None:
                call, arguments = job
                try:
                    call(*arguments)
                except BaseException as error:
                    self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
