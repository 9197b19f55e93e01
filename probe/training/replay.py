"""Steps that a GPU replays: one launch instead of a hundred.

A step of a small group takes the host longer to launch than the device to make. So it is recorded once, as a CUDA
graph, and replayed. A recording knows addresses, not values. Tensors that it reads and writes stay where they are:
weights, moments, statistics, sums and the batch. Numbers that the host computes are tensors, set before each replay.
What a step makes for itself, gradients too, is in memory that all recordings share: groups take turns.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from ...runtime.console import say
from ..batches.token_batch import TokenBatch
from .static_batch import Form, Inputs, StaticBatches

REHEARSALS = 3
"""Steps before the recording, made as usual: libraries load, kernels are chosen, workspaces are made."""

Step = Callable[[Tensor, Tensor], None]
"""Makes a step on tokens and labels."""


class Recorder:
    """Records the steps of the groups that take turns on one GPU.

    Attributes:
        batches: that recorded steps read.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare a stream to record on, and memory that recordings share."""
        self.batches = StaticBatches()
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], None]) -> None:
        """Do what will be recorded, on the stream that it will be recorded on."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what replays `work` on the current stream. Recording changes no value on the device."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(self._stream),  # a recording that fails leaves its stream the current one
            # Threads that read tokens ahead may allocate meanwhile: their errors are not ours.
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


def make_recorder(device: torch.device) -> Recorder | None:
    """Return a recorder for the groups of a pass, or None where nothing can be recorded."""
    return Recorder(device) if device.type == "cuda" else None


class Replay:
    """The recorded step of one group: first rehearsed, then recorded, then replayed.

    The first batch decides on the size. Batches of another size are not for this.
    """

    def __init__(self, recorder: Recorder, form: Form) -> None:
        """Start without a recording.

        Args:
            recorder: shared with the other groups of a pass.
            form: of the batches that the group reads.
        """
        self._recorder, self._form = recorder, form
        self._n_images, self._n_rehearsed, self._failed = 0, 0, False
        self._recorded: tuple[Inputs, Callable[[], None]] | None = None

    def prepare(self, batch: TokenBatch, step: Step) -> bool:
        """Record the step if it is time to; return whether `run` can make it."""
        self._n_images = self._n_images or len(batch)
        if self._failed or len(batch) != self._n_images:
            return False
        if self._n_rehearsed >= REHEARSALS and not self._is_current(batch):
            self._record(self._recorder.batches.place(batch, self._form), step)
        return not self._failed

    def run(self, batch: TokenBatch, step: Step) -> None:
        """Make the step for which `prepare` was called."""
        inputs = self._recorder.batches.load(batch, self._form)
        if self._recorded is None:
            self._n_rehearsed += 1
            self._recorder.rehearse(partial(step, *inputs))
        else:
            self._recorded[1]()

    def forget(self) -> None:
        """Record again before the next step: the step is another one now."""
        self._recorded = None

    def _is_current(self, batch: TokenBatch) -> bool:
        """Whether there is a recording that reads the batch from where it will be."""
        if self._recorded is None:
            return False
        place = self._recorder.batches.place(batch, self._form)
        return place.tokens.data_ptr() == self._recorded[0].tokens.data_ptr()

    def _record(self, inputs: Inputs, step: Step) -> None:
        self.forget()  # its memory is that of the next
        try:
            self._recorded = inputs, self._recorder.record(partial(step, *inputs))
        except Exception as error:  # kernels and libraries refuse to be recorded in any way they like
            self._failed = True
            _say_once(f"steps are launched one kernel at a time, since recording them failed: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Return the first line of the error that came first: those after it are about the recording that it broke."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0]


@cache
def _say_once(line: str) -> None:
    say(line)
