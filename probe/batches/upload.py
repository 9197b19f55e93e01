"""Copies from reused host buffers to the training device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Upload:
    """Brings tensors to a device. To a GPU they are copied on a stream of its own, one ahead of their use."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def each(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield each tensor on the device, in order.

        On the CPU they are the tensors themselves. On a GPU a tensor is copied before the next is asked for of
        `tensors`, so that the (pinned) memory it came from may be used again. The device may be one tensor behind:
        a host that is farther ahead would fill its memory with copies.
        """
        if self._stream is None:
            yield from tensors
            return
        ready: Tensor | None = None
        used: torch.cuda.Event | None = None
        for tensor in tensors:
            copying, copied = self._copy(tensor)
            if ready is not None:
                yield ready
                if used is not None:
                    used.synchronize()
                used = torch.cuda.current_stream(self._device).record_event()
            copied.synchronize()
            ready = copying
        if ready is not None:
            yield ready

    def _copy(self, tensor: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Start a copy; return its target and the event of its end."""
        assert self._stream is not None
        with torch.cuda.stream(self._stream):
            copied = tensor.to(self._device, non_blocking=True)
            event = self._stream.record_event()
        copied.record_stream(torch.cuda.current_stream(self._device))
        return copied, event
