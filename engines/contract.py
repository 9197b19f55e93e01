"""The contract of engines: units of work, workers that do them, and engines that bring the two together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, Self

Tell = Callable[[int, int], None]
"""Called with the amounts of work done since the last call, such as images and bytes."""
Worker = Callable[[Iterator[Any], Tell], None]
"""Does the units of an iterator. It may take some ahead. It returns once all that it took are safe."""
WorkerFactory = Callable[[], AbstractContextManager[Worker]]
"""Makes a worker in the process that calls it. It can be pickled."""


class Engine(Protocol):
    """Runs units. Every process of a command makes one: the leader calls `run`, all others call `serve`.

    Attributes:
        leads: whether this process is the leader, which plans the work and finishes it.
        is_alone: whether the leader is the only worker.
    """

    leads: bool
    is_alone: bool

    def __enter__(self) -> Self:
        """Join the other processes."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the other processes. Those that wait for units learn that there are none."""

    def run(self, units: Sequence[Any], make_worker: WorkerFactory, tell: Tell) -> None:
        """Do all units, each at least once, and return when all are done.

        Args:
            units: can be pickled.
            make_worker: makes the workers.
            tell: called in this process with the work that all workers have done.

        Raises:
            TokenprobeError: raised by a worker.
            Terminated: the process was asked to stop. Units that were begun are safe as far as they are done.
        """

    def serve(self) -> None:
        """Work for the leader until it has no more units."""
