"""The division of the kernels' work."""

from math import prod

import pytest
import torch

from tokenprobe.probe.heads import fused

pytest.importorskip("triton")

from tokenprobe.probe.heads import fused_launch


@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_fit_into_registers_and_shared_memory(monkeypatch: pytest.MonkeyPatch, itemsize: int) -> None:
    for room in (99 * 2**10, 163 * 2**10, 227 * 2**10):  # of GPUs of compute capability 8.9, 8.0 and 9.0
        monkeypatch.setattr(fused_launch, "SHARED_BYTES", room)
        for n_tokens in (1, 49, 196, 261, fused.MOST_TOKENS):
            for n_queries, dim in ((1, 8), (32, 96), (2048, 768)):
                x = torch.empty(1, n_tokens, dim, dtype={2: torch.bfloat16, 4: torch.float32}[itemsize], device="meta")
                for n_factors in (1, 2):
                    tiles = fused_launch.choose_tiles(x, n_queries, backward=n_factors == 2)
                    assert all(size >= 16 and size & (size - 1) == 0 for size in tiles[:3])
                    assert tiles.tokens >= n_tokens and tiles.stages >= 1
                    assert prod(tiles[:2]) * n_factors <= 256 * 32 * 128
                    rows = n_factors * tiles.queries + tiles.tokens
                    maps_bytes = prod(tiles[:2]) * itemsize * (n_factors == 1)
                    assert rows * tiles.width * itemsize * tiles.stages + maps_bytes <= room
