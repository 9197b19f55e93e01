"""Batches through reused buffers: those asked for, whatever the pieces, from memory as from a store."""

from functools import partial

import numpy as np
import pytest
import torch

from tokenprobe.probe.batches.pieces import Rings, group_batches, make_ring, read_batches
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.memory_reader import MemoryReader
from tokenprobe.store.ring import BufferRing

CPU = torch.device("cpu")
VALUES = np.random.default_rng(0).standard_normal((50, 3, 4)).astype(np.float16)
BATCHES = np.split(np.random.default_rng(1).permutation(50), [8, 16, 24, 25, 25, 45])
from_memory = partial(
    read_batches, MemoryReader(VALUES), dtype=VALUES.dtype, as_tensor=torch.from_numpy, device=CPU
)  # fmt: skip


@pytest.mark.parametrize("piece_rows", [0, 8, 17, 50])
@pytest.mark.parametrize("n_buffers", [1, 2, 3])
def test_batches_from_memory_are_the_rows_asked_for(n_buffers: int, piece_rows: int) -> None:
    ring = BufferRing(n_buffers)
    for _ in range(2):
        found = from_memory(BATCHES, piece_rows, ring=ring)
        for rows, tokens in zip(BATCHES, found, strict=True):
            assert torch.equal(tokens, torch.from_numpy(VALUES[rows]))


def test_no_batches_are_no_batches() -> None:
    assert list(from_memory([], 8, ring=BufferRing(2))) == []


def test_buffers_are_allocated_once_for_all_passes() -> None:
    asked: list[int] = []

    def allocate(n_bytes: int) -> np.ndarray:
        asked.append(n_bytes)
        return page_aligned(n_bytes)

    ring = BufferRing(2, allocate)
    for _ in range(3):
        assert len(list(from_memory(BATCHES[:3], 8, ring=ring))) == 3
    assert asked == [8 * 3 * 4 * 2] * 2


def test_batches_are_read_together_while_a_piece_holds_them() -> None:
    batches = [np.arange(size) for size in (3, 7, 1, 20, 4, 4, 2)]
    groups = group_batches(batches, piece_rows=10)
    assert [[len(rows) for rows in group] for group in groups] == [[3, 7], [1], [20], [4, 4, 2]]
    assert group_batches([], piece_rows=10) == []


def test_each_layer_and_kind_has_a_ring_of_its_own() -> None:
    rings = Rings(CPU)
    assert rings[0, "patch"] is rings[0, "patch"]
    assert len({id(rings[key]) for key in ((0, "patch"), (0, "mean"), (1, "patch"))}) == 3
    assert rings[0, "patch"].n_buffers == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("piece_rows", [1, 300])
def test_on_a_gpu_a_batch_is_whole_while_it_is_worked_with(piece_rows: int) -> None:
    """The work with each batch takes longer than reading the next ones, and the host does not wait for it."""
    device, values = torch.device("cuda", 0), np.random.default_rng(0).standard_normal((400, 1 << 16), np.float32)
    on_device, heavy = torch.from_numpy(values).to(device), torch.randn(4096, 4096, device=device)
    batches = np.split(np.random.default_rng(1).permutation(400), range(50, 400, 50))
    read = partial(read_batches, MemoryReader(values), dtype=values.dtype, as_tensor=torch.from_numpy, device=device)
    ring, wrong = make_ring(device), []
    for _ in range(3):
        for rows, tokens in zip(batches, read(batches, piece_rows, ring=ring), strict=True):
            for _ in range(20):
                heavy @ heavy
            wrong.append((tokens != on_device[torch.from_numpy(rows).to(device, non_blocking=True)]).sum())
    assert torch.stack(wrong).tolist() == [0] * 24
