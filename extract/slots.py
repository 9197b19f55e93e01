"""Memory that decoding processes write pixels into, batch after batch, and that a GPU copies from."""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Slots:
    """A few batches of pixels, used in turn by this process and by those that it forks.

    The memory is anonymous: no file in /dev/shm, which containers keep small, and nothing to clear away after a crash.
    """

    def __init__(self, n_slots: int, shape: Sequence[int]) -> None:
        """Reserve memory, which is taken as it is written to.

        Args:
            n_slots: number of batches.
            shape: of a batch: (largest B, 3, H, W).
        """
        n_images, channels, height, width = shape
        self._memory = mmap.mmap(-1, n_slots * int(np.prod(shape)))
        pixels = torch.frombuffer(self._memory, dtype=torch.uint8)
        # As decoders give them: to turn pixels into planes takes 3% of a fast decoder's time, and a GPU none.
        self._pixels = pixels.view(n_slots, n_images, height, width, channels).permute(0, 1, 4, 2, 3)
        self._pinned = False

    def __getitem__(self, batch: int) -> Tensor:
        """Return the slot of a batch, (largest B, 3, H, W) uint8 in channels_last format."""
        return self._pixels[batch % len(self._pixels)]

    def pin(self) -> None:
        """Let a GPU copy from the memory while this process goes on. Call it after the fork."""
        status = torch.cuda.cudart().cudaHostRegister(self._pixels.data_ptr(), self._pixels.nbytes, 0)
        self._pinned = status == torch.cuda.cudart().cudaError.success  # if memory may not be locked, copies only wait

    def unpin(self) -> None:
        """Give the memory back. No copy may be under way."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._pixels.data_ptr())
            self._pinned = False


def n_slots(chunks: Sequence[int], ahead: int) -> int:
    """Return how many batches are begun before one is done with.

    Args:
        chunks: the batch of each chunk, in order.
        ahead: chunks that are decoded beyond those of the batch that is in use.
    """
    of = np.asarray(chunks)
    last = np.flatnonzero(np.diff(of, append=of[-1] + 1))  # the last chunk of each batch
    return 1 + int((of[np.minimum(last + ahead, len(of) - 1)] - of[last]).max())
