"""Copies from reused host buffers to the training device."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Upload:
    """Brings tensors to a device. A GPU copies them on a separate stream, one tensor ahead of use."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def each(self, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield each tensor on the device, in order.

        On the CPU this yields the tensors themselves. For a GPU it copies a tensor before it takes the next from
        `tensors`, so the tensor's (pinned) memory may be reused. The device may be at most one tensor behind the host:
        otherwise copies would fill its memory.
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
