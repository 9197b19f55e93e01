"""Steps that a GPU replays: one launch instead of a hundred.

The host needs longer to launch a small group's step than the device needs to make it. So the step is recorded once, as
a CUDA graph, and replayed. A recording knows addresses, not values. The tensors that it reads and writes stay in place:
weights, moments, statistics, sums and the batch. Numbers that the host computes are tensors, set before each replay. A
step's temporary tensors, gradients included, are in memory that all recordings share: groups take turns.
"""

import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

from ..batches.token_batch import TokenBatch
from .static_batch import Form, Inputs, StaticBatches

logger = logging.getLogger(__name__)

REHEARSALS = 3
"""Steps made as usual before the recording: libraries load, choose kernels and make workspaces."""

Step = Callable[[Tensor, Tensor], None]
"""Makes a step on tokens and labels."""


class Recorder:
    """Shared state of the groups that take turns to replay steps on one device.

    This base class makes a step again instead of replaying it.

    Attributes:
        batches: the batches that the steps read.
        users: the replays of the groups.
    """

    def __init__(self) -> None:
        """Start without recordings."""
        self.batches = StaticBatches()
        self.users: weakref.WeakSet[Replay] = weakref.WeakSet()

    def rehearse(self, work: Callable[[], None]) -> None:
        """Do the work once in the same way as the recording will."""
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays `work`. Recording changes no value on the device."""
        return work


class GraphRecorder(Recorder):
    """Records the steps of the groups on one GPU as CUDA graphs, on one stream, into memory that they share."""

    def __init__(self, device: torch.device) -> None:
        """Prepare the stream and the memory."""
        super().__init__()
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], None]) -> None:
        """See `Recorder.rehearse`. It uses the stream, workspaces and gradients of the recording.

        Work takes as much memory as its recording. So existing recordings are dropped first, and made again later.
        """
        current = torch.cuda.current_stream(self._stream.device)
        if any(user.is_recorded for user in self.users):
            current.synchronize()
            for user in self.users:
                user.drop()
            self._pool = torch.cuda.graph_pool_handle()  # torch accepts no pool again after all its graphs are gone
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder.record`. The replay runs on the current stream."""
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.stream(self._stream),  # a failed recording leaves its stream current
                # Threads that read tokens ahead may allocate meanwhile; that is no error here.
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                work()
        except Exception:
            self._abandon()
            raise
        replay: Callable[[], None] = graph.replay
        return replay

    def _abandon(self) -> None:
        """End a failed recording: torch's allocator and random generators believe that it still runs."""
        for end in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
            with suppress(RuntimeError):  # it failed before or after
                end(self._stream.device_index, self._pool)
        random = torch.cuda.default_generators[self._stream.device_index]
        random.graphsafe_set_state(random.clone_state())
        self._pool = torch.cuda.graph_pool_handle()


def can_record(device: torch.device) -> bool:
    """Return whether steps on a device are recorded."""
    return device.type == "cuda"


def make_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for the groups of a pass, or None if the device does not record."""
    return GraphRecorder(device) if can_record(device) else None


class Replay:
    """The recorded step of one group: first rehearsed, then recorded, then replayed.

    The first batch sets the size. Batches of another size are not replayed.

    Attributes:
        is_recorded: whether there is a recording.
    """

    def __init__(self, recorder: Recorder, form: Form) -> None:
        """Start without a recording.

        Args:
            recorder: shared with the other groups of a pass.
            form: form of the batches that the group reads.
        """
        self._recorder, self._form = recorder, form
        self._n_images, self._n_rehearsed = 0, 0
        self._recorded: tuple[Inputs, Callable[[], None]] | None = None
        self._is_current, self._failed = False, False
        recorder.users.add(self)

    @property
    def is_recorded(self) -> bool:
        """See the attributes."""
        return self._recorded is not None

    def prepare(self, batch: TokenBatch, step: Step) -> bool:
        """Record the step when it is due; return whether `run` can make it."""
        self._n_images = self._n_images or len(batch)
        if self._failed or len(batch) != self._n_images:
            return False
        place = self._recorder.batches.place(batch, self._form)
        if self._n_rehearsed >= REHEARSALS and not self._reads(place):
            self._record(place, step)
        return not self._failed

    def run(self, batch: TokenBatch, step: Step) -> None:
        """Make the step for which `prepare` was called."""
        inputs = self._recorder.batches.load(batch, self._form)
        if self._recorded is not None:
            self._recorded[1]()
        else:
            self._n_rehearsed += 1
            self._recorder.rehearse(partial(step, *inputs))

    def forget(self) -> None:
        """Record again before the next step, because the step has changed."""
        self._is_current = False

    def drop(self) -> None:
        """Give up the recording and its memory."""
        self._recorded = None

    def _reads(self, place: Inputs) -> bool:
        """Return whether a recording of the current step exists that reads tokens at that place."""
        known = self._recorded
        return known is not None and self._is_current and known[0].tokens.data_ptr() == place.tokens.data_ptr()

    def _record(self, place: Inputs, step: Step) -> None:
        try:
            # The old recording stays until then; it keeps the shared memory alive.
            self._recorded = place, self._recorder.record(partial(step, *place))
            self._is_current = True
        except Exception as error:  # kernels and libraries refuse a recording with errors of any type
            self._failed = True
            self.drop()
            first = _first(error)
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None  # a smaller pass may fit
            reason = f"{type(first).__name__}: {first}".splitlines()[0]
            _say_once(f"steps are launched one kernel at a time, since recording them failed: {reason}")


def _first(error: BaseException) -> BaseException:
    """Return the first error; later errors only concern the recording that it broke."""
    while error.__context__ is not None:
        error = error.__context__
    return error


@cache
def _say_once(line: str) -> None:
    logger.warning(line)
