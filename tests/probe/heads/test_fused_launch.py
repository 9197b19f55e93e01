"""The division of the kernels' work."""

import pytest
import torch

from tokenprobe.probe.heads import fused

pytest.importorskip("triton")

from tokenprobe.probe.heads import fused_launch


@pytest.mark.parametrize("room", [99, 163, 227])
@pytest.mark.parametrize("normed", [False, True])
def test_tiles_fit_into_registers_and_shared_memory(monkeypatch: pytest.MonkeyPatch, room: int, normed: bool) -> None:
    """Of GPUs of compute capability 8.9, 8.0 and 9.0: two programs of four warps, or one of eight."""
    monkeypatch.setattr(fused_launch, "SHARED_BYTES", room * 2**10)
    for n_tokens in range(1, fused.MOST_TOKENS + 1, 5):
        for n_queries, dim in ((1, 8), (32, 96), (100, 200), (2048, 768)):
            x = torch.empty(1, n_tokens, dim, dtype=torch.bfloat16, device="meta")
            for g_bytes in (None, 2, 4):
                queries, parts, width, warps, stages = fused_launch.choose_tiles(
                    x, n_queries, normed=normed, g_bytes=g_bytes
                )
                assert all(size >= 16 and size & (size - 1) == 0 for size in (queries, *parts, width))
                assert queries < 2 * max(16, n_queries) and stages >= 1
                n_scores = queries * sum(parts) * (1 if g_bytes is None else 2)
                assert n_scores <= (136 if normed else 208) * 32 * warps
                maps_bytes = 2 * queries * sum(parts) * (g_bytes is None and queries < 16 * warps)
                slice_bytes = (queries * (2 + (g_bytes or 0)) + sum(parts) * 2) * width
                assert stages * slice_bytes + maps_bytes <= room * 2**10 * warps // 8


def test_the_measured_case_has_the_tiles_that_were_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cells of 32 queries over 196 tokens, on an H200."""
    monkeypatch.setattr(fused_launch, "SHARED_BYTES", 227 * 2**10)
    x = torch.empty(1, 196, 768, dtype=torch.bfloat16, device="meta")
    assert fused_launch.choose_tiles(x, 2048, normed=False) == (128, (128, 64, 16), 32, 4, 4)
    assert fused_launch.choose_tiles(x, 2048, normed=False, g_bytes=2) == (128, (128, 64, 16), 64, 8, 3)


def test_tokens_are_divided_into_three_parts_at_most_with_little_padding() -> None:
    for n_tokens in range(1, fused.MOST_TOKENS + 1):
        parts = fused_launch.divide_tokens(n_tokens)
        assert len(parts) <= 3 and list(parts) == sorted(parts, reverse=True)
        assert all(16 <= part <= 256 for part in parts)
        assert 0 <= sum(parts) - n_tokens < (64 if n_tokens > 256 else max(16, parts[0] / 4))
