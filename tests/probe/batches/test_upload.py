"""Copies to the training device: in order, whole, and done before their memory is used again."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tokenprobe.probe.batches.pieces import make_ring
from tokenprobe.probe.batches.upload import Upload


def test_on_the_cpu_tensors_are_passed_through_one_at_a_time() -> None:
    tensors = [torch.arange(3) + i for i in range(4)]
    taken: list[torch.Tensor] = []

    def source() -> Iterator[torch.Tensor]:
        for tensor in tensors:
            taken.append(tensor)
            yield tensor

    for number, tensor in enumerate(Upload(torch.device("cpu")).each(source())):
        assert tensor is tensors[number]
        assert len(taken) == number + 1
    assert len(taken) == 4


def test_no_tensors_are_no_tensors() -> None:
    assert list(Upload(torch.device("cpu")).each([])) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_pinned_memory_may_be_used_again_once_all_is_yielded() -> None:
    """Pieces of several batches go through two pinned buffers; each batch is computed with before the next comes."""
    device = torch.device("cuda", 0)
    ring, upload = make_ring(device), Upload(device)
    sums = []
    for piece in range(6):
        memory = torch.from_numpy(ring.array(piece, (8, 1 << 20), np.dtype(np.float32)))
        assert memory.is_pinned()
        memory[:] = torch.arange(8)[:, None] + 8 * piece
        for batch in upload.each(memory.split(2)):
            assert batch.device.type == "cuda"
            sums.append(batch.double().sum(1) / (1 << 20))
    assert torch.cat(sums).tolist() == list(range(48))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_copies_run_on_a_stream_of_their_own() -> None:
    device = torch.device("cuda", 0)
    upload = Upload(device)
    source = torch.arange(10.0).pin_memory()
    (copied,) = upload.each([source])
    source.zero_()  # the copy is done
    assert copied.tolist() == list(range(10))
    assert list(upload.each([])) == []
