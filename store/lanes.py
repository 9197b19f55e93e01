"""A few threads, each with a short queue: work given to one lane is done in order, lanes run side by side."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

Job = tuple[Callable[..., None], tuple[Any, ...]]


class Lanes:
    """Ordered background work with bounded queues.

    The first failure stops all work that is still queued; it is raised by the next `put` or `join`. A signal may raise
    an exception in the midst of `put`: afterwards `stop` still ends the threads. `queue.Queue` does not promise that:
    the exception can leave its lock held, and then threads wait for ever.
    """

    def __init__(self, n_lanes: int, queued: int) -> None:
        """Start `n_lanes` threads that each let `queued` jobs wait."""
        self._failure: BaseException | None = None
        self._jobs: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(n_lanes)]
        self._places: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(n_lanes)]
        self._threads = [Thread(target=self._work, args=(lane,), daemon=True) for lane in range(n_lanes)]
        for places, thread in zip(self._places, self._threads, strict=True):
            for _ in range(queued):
                places.put(None)
            thread.start()

    def put(self, lane: int, call: Callable[..., None], *arguments: Any) -> None:
        """Queue a call on a lane; wait while its queue is full."""
        self._raise_failure()
        lane %= len(self._jobs)
        self._places[lane].get()
        self._jobs[lane].put((call, arguments))

    def join(self) -> None:
        """Finish the queued work, end the threads, and raise the first failure. May be called again."""
        self.stop()
        self._raise_failure()

    def stop(self) -> None:
        """Finish the queued work and end the threads, silently."""
        for jobs in self._jobs:
            jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, lane: int) -> None:
        # After a failure the queue is still emptied, so that nobody waits at a full one for ever.
        while (job := self._jobs[lane].get()) is not None:
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
