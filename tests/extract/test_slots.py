"""Shared memory for pixels: its size, its visibility in forks, and pinning on a GPU."""

import os

import pytest
import torch

from tokenprobe.extract.slots import Slots, n_slots


def begun_at_once(chunks: list[int], ahead: int) -> int:
    """Simulate a reader that takes chunks in order; each taken chunk lets one more begin."""
    most = 0
    for taken in range(1, len(chunks) + 1):
        in_use = chunks[taken - 1]  # its pixels are the reader's until it takes a chunk of the next batch
        begun = chunks[min(taken + ahead, len(chunks)) - 1]
        most = max(most, begun - in_use + 1)
    return most


@pytest.mark.parametrize("ahead", [0, 1, 2, 7, 16, 100])
@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [1, 1, 1, 1, 1], [5, 1, 1, 1, 5, 2], [24] * 7 + [1] * 20], ids=str)
def test_there_is_a_slot_for_every_batch_that_is_begun(lengths: list[int], ahead: int) -> None:
    chunks = [batch for batch, length in enumerate(lengths) for _ in range(length)]
    assert n_slots(chunks, ahead) == begun_at_once(chunks, ahead)


def test_a_forked_process_writes_and_this_one_reads() -> None:
    slots = Slots(2, (4, 3, 2, 5))
    child = os.fork()
    if child == 0:
        slots[3][2] = torch.arange(30, dtype=torch.uint8).view(3, 2, 5)
        os._exit(0)
    os.waitpid(child, 0)
    assert torch.equal(slots[1][2], torch.arange(30, dtype=torch.uint8).view(3, 2, 5)), "slots come in turn"
    assert not slots[0].any()
    assert slots[0].shape == (4, 3, 2, 5) and slots[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_copies_from_pinned_slots_what_a_fork_wrote() -> None:
    slots, expected = Slots(2, (4, 3, 20, 50)), torch.arange(12_000).view(4, 3, 20, 50).to(torch.uint8)
    child = os.fork()
    if child == 0:
        slots[0].copy_(expected)
        os._exit(0)
    os.waitpid(child, 0)
    slots.pin()
    assert slots[0].is_pinned() and slots[1].is_pinned()
    assert torch.equal(slots[0].to("cuda", non_blocking=True).cpu(), expected)
    slots.unpin()
    assert not slots[0].is_pinned()
    slots.unpin()
