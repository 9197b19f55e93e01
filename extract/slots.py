"""Shared memory for batches of pixels: decoding processes write to it, and a GPU copies from it."""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Slots:
    """A few batches of pixels, which this process and its forks use in turn.

    The memory is anonymous. It needs no file in /dev/shm, which containers keep small, and no clean-up after a crash.
    """

    def __init__(self, n_slots: int, shape: Sequence[int]) -> None:
        """Reserve memory. The system allocates each page on the first write.

        Args:
            n_slots: number of batches.
            shape: shape of a batch: (largest B, 3, H, W).
        """
        n_images, channels, height, width = shape
        self._memory = mmap.mmap(-1, n_slots * int(np.prod(shape)))
        pixels = torch.frombuffer(self._memory, dtype=torch.uint8)
        # Pixels keep the decoder's layout: splitting them into planes takes 3% of a fast decoder's time, none on a GPU.
        self._pixels = pixels.view(n_slots, n_images, height, width, channels).permute(0, 1, 4, 2, 3)
        self._pinned = False

    def __getitem__(self, batch: int) -> Tensor:
        """Return the slot of a batch, (largest B, 3, H, W) uint8 in channels_last format."""
        return self._pixels[batch % len(self._pixels)]

    def pin(self) -> None:
        """Let a GPU copy from the memory while this process continues. Call it after the fork."""
        status = torch.cuda.cudart().cudaHostRegister(self._pixels.data_ptr(), self._pixels.nbytes, 0)
        self._pinned = status == torch.cuda.cudart().cudaError.success  # if locking is not allowed, copies block

    def unpin(self) -> None:
        """Unlock the memory. No copy may be in progress."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._pixels.data_ptr())
            self._pinned = False


def n_slots(chunks: Sequence[int], ahead: int) -> int:
    """Return the largest number of batches in progress at once.

    Args:
        chunks: the batch of each chunk, in order.
        ahead: number of chunks that workers decode ahead of the batch in use.
    """
    of = np.asarray(chunks)
    last = np.flatnonzero(np.diff(of, append=of[-1] + 1))  # the last chunk of each batch
    return 1 + int((of[np.minimum(last + ahead, len(of) - 1)] - of[last]).max())
