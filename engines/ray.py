"""Ray: units are tasks on the machines of a Ray cluster. The command is the leader, and does no unit itself.

A task that is lost with its worker or its machine runs again elsewhere. A worker process keeps its model from task to
task (`max_calls=0`).
"""

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import Any

from ..errors import InputError, TokenprobeError
from ..runtime.stopping import SIGNALS, stop_here, until_stopped
from ..runtime.workers import NEIGHBOURS
from .contract import Tell, Worker, WorkerFactory

RETRIES = 10
"""How often a unit is begun anew after its worker or machine was lost."""
AHEAD = 2
"""Tasks that are handed to Ray per task that can run, so that no worker waits for the next one."""
PAUSE = 0.5
"""Seconds between two looks for signals."""

_workers: dict[str, Worker] = {}
_open = ExitStack()


class OnRay:
    """See `Engine`."""

    leads, is_alone = True, False

    def __init__(self, address: str | None = None, num_gpus: float | None = None) -> None:
        """Prepare for a cluster.

        Args:
            address: of the cluster, such as "auto" or "HOST:6379". By default Ray starts on this machine.
            num_gpus: GPUs per task. By default one if the cluster has any.
        """
        try:
            import ray
        except ImportError:
            raise InputError(
                "engine 'ray' asked for, but Ray is not installed; pip install 'tokenprobe[ray]'"
            ) from None
        self._ray: Any = ray
        self._address, self._num_gpus = address, num_gpus

    def __enter__(self) -> "OnRay":
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._is_ours = not self._ray.is_initialized()
        try:
            if self._is_ours:
                self._ray.init(self._address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError) as error:
            raise InputError(
                f"no Ray cluster at {self._address!r} ({error}); start one, or leave --address out"
            ) from error
        finally:
            for number, handler in handlers.items():  # Ray has its own
                signal.signal(number, handler)
        try:
            self._share_machines()
        except InputError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.environ.pop(NEIGHBOURS, None)
        if self._is_ours:
            self._ray.shutdown()

    def run(self, units: Sequence[Any], make_worker: WorkerFactory, tell: Tell) -> None:
        """See `Engine.run`."""
        key = os.urandom(8).hex()
        work, made, here = self._ray.put(pickle.dumps(make_worker)), self._neighbours, os.getcwd()
        do = self._ray.remote(
            max_calls=0, max_retries=RETRIES, num_cpus=self._num_cpus, num_gpus=self._num_gpus, retry_exceptions=False
        )(_do)
        waiting, running = until_stopped(units), list[Any]()
        tell(0, 0)
        while True:
            room = AHEAD * self._capacity - len(running)
            running += [do.remote(key, work, unit, made, here) for _, unit in zip(range(room), waiting, strict=False)]
            if not running:
                break
            done, running = self._ray.wait(running, timeout=PAUSE)
            for each in done:
                tell(*self._result(each))
        stop_here()

    def serve(self) -> None:
        """Do nothing: tasks come to the workers."""

    def _result(self, done: Any) -> tuple[int, int]:
        try:
            amounts: tuple[int, int] = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, TokenprobeError):
                raise error.cause from None
            raise
        return amounts

    def _share_machines(self) -> None:
        """Divide the cores of a machine among its tasks: one task per GPU, or one per core.

        Raises:
            InputError: no machine has the GPUs of one task; Ray would wait for one.
        """
        there, nodes = self._ray.cluster_resources(), [node for node in self._ray.nodes() if node["Alive"]]
        most = max((node["Resources"].get("GPU", 0) for node in nodes), default=0)
        if self._num_gpus is not None and self._num_gpus > most:
            raise InputError(
                f"num_gpus {self._num_gpus:g} per task, but no machine of the Ray cluster has more than {most:g}; "
                "give a smaller --num-gpus, or add machines"
            )
        n_cpus, n_gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
        if self._num_gpus is None:
            self._num_gpus = 1.0 if n_gpus else 0.0
        self._num_cpus = max(1, int(n_cpus * self._num_gpus // n_gpus)) if n_gpus and self._num_gpus else 1
        self._capacity = max(1, n_cpus // self._num_cpus)
        self._neighbours = max(1, self._capacity // max(1, len(nodes)))
        os.environ[NEIGHBOURS] = str(self._neighbours)  # the leader plans for the memory of a worker


def _do(key: str, work: bytes, unit: Any, neighbours: int, folder: str) -> tuple[int, int]:
    """Do one unit in a process of Ray, in the leader's folder. Its worker stays for the next one."""
    if key not in _workers:
        os.environ[NEIGHBOURS] = str(neighbours)
        with suppress(OSError):  # a machine without that folder can still do work whose paths are absolute
            os.chdir(folder)
        make: AbstractContextManager[Worker] = pickle.loads(work)()
        _workers[key] = _open.enter_context(make)
    amounts = [0, 0]

    def tell(done: int, of: int) -> None:
        amounts[0] += done
        amounts[1] += of

    _workers[key](_one(unit), tell)
    return amounts[0], amounts[1]


def _one(unit: Any) -> Iterator[Any]:
    yield unit
