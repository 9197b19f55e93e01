"""The memory that torch's allocator takes: its published rules by hand, and its own record on a GPU."""

import random
from typing import Any

import pytest
import torch

from tokenprobe.probe.planning.arena import MIB, Arena


@pytest.mark.parametrize(
    ("n_bytes", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (805 * MIB, 806 * MIB),
    ],
)
def test_a_first_tensor_takes_a_segment_of_its_size_class(n_bytes: int, reserved: int) -> None:
    arena = Arena()
    arena.take(n_bytes)
    assert arena.reserved == reserved


def test_small_tensors_share_a_segment_to_its_last_512_bytes() -> None:
    arena = Arena()
    for _ in range(2 * MIB // 512):
        arena.take(500)
    assert arena.reserved == 2 * MIB
    arena.take(1)
    assert arena.reserved == 4 * MIB


def test_a_large_block_is_split_where_more_than_a_mebibyte_is_left() -> None:
    whole, split = Arena(), Arena()
    whole.give(whole.take(30 * MIB))
    whole.take(29 * MIB)  # leaves one mebibyte, which stays with it
    whole.take(MIB + 512)
    assert whole.reserved == 50 * MIB
    split.give(split.take(30 * MIB))
    split.take(28 * MIB)
    split.take(2 * MIB)
    assert split.reserved == 30 * MIB


def test_the_smallest_free_block_that_is_large_enough_is_taken() -> None:
    arena = Arena()
    large, fitting = arena.take(60 * MIB), arena.take(40 * MIB)
    arena.give(large)
    arena.give(fitting)
    arena.take(40 * MIB)
    arena.take(60 * MIB)
    assert arena.reserved == 100 * MIB


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_free_neighbours_are_one_block(order: tuple[int, ...]) -> None:
    arena = Arena()
    arena.give(arena.take(90 * MIB))
    thirds = [arena.take(30 * MIB) for _ in range(3)]
    for index in order:
        arena.give(thirds[index])
    arena.take(90 * MIB)
    assert arena.reserved == 90 * MIB


def test_a_freed_block_is_of_no_use_to_a_larger_tensor() -> None:
    """So halves and wholes that take turns need more than is ever alive."""
    arena = Arena()
    half = arena.take(400 * MIB)
    whole = arena.take(800 * MIB)
    arena.give(half)
    arena.take(800 * MIB)
    arena.give(whole)
    assert arena.reserved == 2000 * MIB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_what_the_allocator_reserves() -> None:
    """Tensors of all sizes come and go, in a pool of their own. Of equal blocks it takes the one in front."""
    draw, arena, alive = random.Random(0), Arena(), list[Any]()
    pool = torch.cuda.MemPool()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with torch.cuda.use_mem_pool(pool):
        for _ in range(400):
            if alive and draw.random() < 0.45:
                tensor, block = alive.pop(draw.randrange(len(alive)))
                del tensor
                arena.give(block)
            else:
                n_bytes = int(2 ** draw.uniform(4, 27))
                alive.append((torch.empty(n_bytes, dtype=torch.uint8, device="cuda"), arena.take(n_bytes)))
            assert arena.reserved == pytest.approx(torch.cuda.memory_reserved() - before, rel=0.05)
