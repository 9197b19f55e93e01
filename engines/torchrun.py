"""torchrun: it starts the processes, on one machine or many. They claim units from a counter in its TCPStore.

    torchrun --nproc-per-node=8 -m tokenprobe extract …

Rank 0 is the leader, and works too. A claim takes 0.1 ms. If a process dies, torchrun stops the others; with
`--max-restarts` it starts all of them again, and the units that are not done are claimed anew.
"""

import logging
import os
import pickle
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import count
from types import TracebackType
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..errors import InputError, TokenprobeError
from ..runtime.console import PACKAGE
from ..runtime.stopping import is_stopping, stop_here
from ..runtime.workers import n_cores
from .contract import Tell, WorkerFactory

PIECE = 2**23
"""Bytes of one message in the TCPStore."""
PAUSE = 0.05
"""Seconds between two looks at what other processes have done."""
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_numbers = count()


class Torchrun:
    """See `Engine`. All messages are in a part of the TCPStore that belongs to this attempt of torchrun."""

    def __init__(self) -> None:
        lacking = [name for name in NEEDED if name not in os.environ]
        if lacking:
            raise InputError(
                f"engine 'torchrun' asked for, but {', '.join(lacking)} is not set; start the command with "
                "torchrun --nproc-per-node=N -m tokenprobe …"
            )
        self._rank, self._size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.leads, self.is_alone = self._rank == 0, False
        self._told_units = False
        self._told = [0, 0]

    def __enter__(self) -> "Torchrun":
        store, _, _ = next(rendezvous("env://"))  # after a restart it holds what was there before
        store.set_timeout(timedelta(days=365))
        self._store = PrefixStore(f"tokenprobe/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{next(_numbers)}", store)
        _take_share_of_machine()
        if not self.leads:
            logging.getLogger(PACKAGE).setLevel(logging.WARNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `Engine.__exit__`. Without an error, no process leaves before the leader has finished."""
        if value is not None:
            return
        if self.leads and not self._told_units:
            self._send([], None)
            self._wait_for_all(lambda done, of: None)
        if self.leads:
            self._store.set("finished", "")
            self._wait_until(lambda: self._store.add("left", 0) >= self._size - 1)  # rank 0 may host the TCPStore
        else:
            self._wait_until(lambda: self._store.check(["finished"]))
            self._store.add("left", 1)

    def run(self, units: Sequence[Any], make_worker: WorkerFactory, tell: Tell) -> None:
        """See `Engine.run`."""
        self._send(list(units), make_worker)
        self._work(units, make_worker, lambda done, of: self._tell_all(tell, done, of))
        stop_here()
        self._wait_for_all(tell)

    def serve(self) -> None:
        """See `Engine.serve`."""
        units, make_worker = self._receive()
        self._work(units, make_worker, self._add)
        stop_here()
        self._store.add("ended", 1)

    def _work(self, units: Sequence[Any], make_worker: WorkerFactory, tell: Tell) -> None:
        claimed = self._claim(units)
        if (first := next(claimed, None)) is not None:
            with make_worker() as work:
                work(_with_first(first, claimed), tell)

    def _claim(self, units: Sequence[Any]) -> Iterator[Any]:
        while not is_stopping() and (number := self._store.add("claimed", 1) - 1) < len(units):
            yield units[number]

    def _add(self, done: int, of: int) -> None:
        self._store.add("done", done)
        self._store.add("of", of)

    def _tell_all(self, tell: Tell, done: int, of: int) -> None:
        """Tell what all processes have done since the last time."""
        now = [self._store.add("done", done), self._store.add("of", of)]
        tell(now[0] - self._told[0], now[1] - self._told[1])
        self._told = now

    def _wait_for_all(self, tell: Tell) -> None:
        def have_ended() -> bool:
            n_ended = self._store.add("ended", 0)
            self._tell_all(tell, 0, 0)
            return n_ended >= self._size - 1

        self._wait_until(have_ended)

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition. Waiting inside the TCPStore would hold back signals."""
        while not holds():
            stop_here()
            time.sleep(PAUSE)

    def _send(self, units: Sequence[Any], make_worker: WorkerFactory | None) -> None:
        self._told_units = True
        if self._store.add("leaders", 1) > 1:  # after a change of nodes: a restart of torchrun gets keys of its own
            raise TokenprobeError("torchrun began anew without a restart, so units are claimed already; start it again")
        data = zlib.compress(pickle.dumps((units, make_worker)), 1)
        pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
        for number, piece in enumerate(pieces):
            self._store.set(f"piece {number}", piece)  # type: ignore[arg-type]  # bytes work too
        self._store.set("n_pieces", str(len(pieces)))

    def _receive(self) -> tuple[Sequence[Any], WorkerFactory]:
        self._wait_until(lambda: self._store.check(["n_pieces"]))
        n_pieces = int(self._store.get("n_pieces"))
        data = b"".join(self._store.get(f"piece {number}") for number in range(n_pieces))
        units, make_worker = pickle.loads(zlib.decompress(data))
        return units, make_worker


def _with_first(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _take_share_of_machine() -> None:
    """Use the GPU with this process's local number, and an equal share of the cores.

    torchrun sets OMP_NUM_THREADS to 1 if nobody has set it. Another number was meant.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(n_cores())
