"""One process: it is the leader and the only worker."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ..runtime.stopping import stop_here, until_stopped
from .contract import Tell, WorkerFactory


class Inline:
    """See `Engine`."""

    leads = is_alone = True

    def __enter__(self) -> "Inline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: there are no other processes."""

    def run(self, units: Sequence[Any], make_worker: WorkerFactory, tell: Tell) -> None:
        """See `Engine.run`."""
        if units:
            with make_worker() as work:
                work(until_stopped(units), tell)
        stop_here()

    def serve(self) -> None:
        """Do nothing: there is no other leader."""
