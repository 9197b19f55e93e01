"""On a CPU, a recorder that holds what a CUDA graph holds: operations, numbers as they were, and addresses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tokenprobe.probe.training.replay import Recorder

ATEN = torch.ops.aten
NEEDS_THE_HOST = {
    ATEN._local_scalar_dense.default,  # reads a number
    ATEN.nonzero.default,  # its result has as many rows as there are
    ATEN.masked_select.default,
    ATEN.lift_fresh.default,  # brings a number of the host's
}


class Tape(TorchDispatchMode):
    """Remembers every operation with its operands and results, and refuses what waits for the device.

    Results stay where they are: what is replayed writes them there again, as a graph's kernels do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._outside: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._inside: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NEEDS_THE_HOST:
            raise RuntimeError(f"{func} waits for the device")
        for operand in tensors_of((args, kwargs)):
            storage = operand.untyped_storage()
            if storage.data_ptr() not in self._inside | self._outside.keys():
                self._outside[storage.data_ptr()] = storage, storage.clone()
        made = func(*args, **(kwargs or {}))
        results = tensors_of(made)
        self._inside |= {result.untyped_storage().data_ptr() for result in results} - self._outside.keys()
        self._operations.append((func, args, kwargs or {}, results))
        return made

    def undo(self) -> None:
        """Give every tensor from outside the values it had."""
        for storage, before in self._outside.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, results in self._operations:
            for result, again in zip(results, tensors_of(func(*args, **kwargs)), strict=True):
                if (
                    result.untyped_storage().data_ptr() != again.untyped_storage().data_ptr()
                ):  # neither view nor in place
                    result.copy_(again)


class TapeRecorder(Recorder):
    """Recordings on a CPU.

    Attributes:
        n_recorded: how many were made.
        n_replayed: how often they were replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.n_recorded = self.n_replayed = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        try:
            with tape:
                work()
        finally:
            tape.undo()
        self.n_recorded += 1

        def replay() -> None:
            self.n_replayed += 1
            tape.replay()

        return replay


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
