"""Attention by torch's own operations, on a few images at a time: `attend` where no fused kernel runs.

A block's maps are made and used while they are in the processor's cache, and all blocks use the same room. The maps of
a whole batch would be written to memory and read again several times per step, and each step would ask the system for
that memory anew.

    B images (A: B, or 1 if they share their queries), N tokens, D width, X maps of all cells, K values of a map
"""

from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAPS_BYTES = 4 * 2**30
"""Most bytes of maps that are kept for the backward pass; it makes more of them again."""
CACHE_BYTES = 2**21
"""Bytes of a block's maps per thread of a CPU. Smaller blocks of wide tokens make products that are too small."""
GPU_BYTES = 2**28
"""Bytes of a block's maps on a GPU, which needs large operations."""
MAX_BLOCKS = 64
"""Most blocks in a batch. With more, starting the operations would take a share of the time."""


def attend(x_BND: Tensor, u_AXD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return z = sum_n a_n y_n, (B, X, D), with a_n = softmax_n(u · y_n). Only u gets a gradient.

    Args:
        x_BND: tokens; y_n is x_n, times its `rstd_BN` if that is given.
        u_AXD: queries.
        rstd_BN: one factor per token, in at least float32.
    """
    z_BXD: Tensor = _Attend.apply(_rounded(x_BND), _rounded(u_AXD), rstd_BN)
    return z_BXD


def attend_values(x_BND: Tensor, u_AXD: Tensor, value_XKD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return W z, (X, B, K), for the z of `attend` and one W per map. Only u and W get a gradient.

    The backward pass writes the gradient of z over z: both are larger than a cache, and memory that the system gives
    anew takes longer to touch than to compute. So it runs once per forward pass.

    Args:
        x_BND: as for `attend`.
        u_AXD: likewise.
        value_XKD: W.
        rstd_BN: as for `attend`.
    """
    y_XBK: Tensor = _AttendValues.apply(_rounded(x_BND), _rounded(u_AXD), _rounded(value_XKD), rstd_BN)
    return y_XBK


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, u_AXD: Tensor, rstd_BN: Tensor | None) -> Tensor:
        z_BXD, maps_BXN = _aggregate(x_BND, u_AXD, rstd_BN, keeps=ctx.needs_input_grad[1])
        ctx.save_for_backward(x_BND, u_AXD, rstd_BN, maps_BXN)
        return z_BXD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz_BXD: Tensor) -> tuple[None, Tensor, None]:
        x_BND, u_AXD, rstd_BN, maps_BXN = ctx.saved_tensors
        return None, _queries_gradient(x_BND, u_AXD, rstd_BN, maps_BXN, dz_BXD), None


class _AttendValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BND: Tensor, u_AXD: Tensor, value_XKD: Tensor, rstd_BN: Tensor | None) -> Tensor:
        z_BXD, maps_BXN = _aggregate(x_BND, u_AXD, rstd_BN, keeps=ctx.needs_input_grad[1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x_BND, u_AXD, rstd_BN, maps_BXN, z_BXD, value_XKD)
        return torch.bmm(z_BXD.transpose(0, 1), value_XKD.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_XBK: Tensor) -> tuple[None, Tensor, Tensor, None]:
        x_BND, u_AXD, rstd_BN, maps_BXN, z_BXD, value_XKD = ctx.saved_tensors
        dvalue_XKD = torch.bmm(dy_XBK.mT, z_BXD.transpose(0, 1))
        torch.bmm(dy_XBK, value_XKD, out=z_BXD.transpose(0, 1))  # torch refuses to read z as saved from here on
        return None, _queries_gradient(x_BND, u_AXD, rstd_BN, maps_BXN, z_BXD), dvalue_XKD, None


def _rounded(values: Tensor) -> Tensor:
    """Return values as autocast rounds factors of products."""
    device = values.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return values.to(torch.get_autocast_dtype(device)) if casts and values.dtype != torch.float64 else values


def _aggregate(x_BND: Tensor, u_AXD: Tensor, rstd_BN: Tensor | None, *, keeps: bool) -> tuple[Tensor, Tensor | None]:
    """Return z, and the maps if they are to be kept and are not too large."""
    room = _Room(x_BND, u_AXD, rstd_BN)
    maps_BXN = room.make(len(x_BND), room.dtype) if keeps and room.batch_bytes <= MAPS_BYTES else None
    z_BXD = x_BND.new_empty(len(x_BND), u_AXD.shape[1], x_BND.shape[2])
    for rows, block in room.blocks():
        maps = block.write_maps(block.maps if maps_BXN is None else maps_BXN[rows])
        torch.bmm(block.times_rstd(maps, block.product), block.tokens, out=z_BXD[rows])
    return z_BXD, maps_BXN


def _queries_gradient(
    x_BND: Tensor, u_AXD: Tensor, rstd_BN: Tensor | None, maps_BXN: Tensor | None, dz_BXD: Tensor
) -> Tensor:
    """Return the gradient with respect to u. Without kept maps, they are made again."""
    du_AXD = torch.zeros_like(u_AXD, dtype=torch.promote_types(u_AXD.dtype, torch.float32))
    for rows, block in _Room(x_BND, u_AXD, rstd_BN).blocks():
        maps = block.write_maps(block.maps) if maps_BXN is None else maps_BXN[rows]
        dlogits = block.logits_gradient(maps, dz_BXD[rows])
        if len(u_AXD) == 1:  # one product over all images and tokens sums in float32
            du_AXD[0] += dlogits.transpose(0, 1).flatten(1) @ block.tokens.flatten(0, 1)
        else:
            du_AXD[rows] = dlogits @ block.tokens
    return du_AXD.to(u_AXD.dtype)


class _Block(NamedTuple):
    """A few images, and room for what is computed of them."""

    tokens: Tensor
    queries: Tensor
    rstd: Tensor | None
    product: Tensor  # (B, X, N) in the type of the tokens; the others in that of the maps
    maps: Tensor
    scaled: Tensor
    dlogits: Tensor

    def write_maps(self, out: Tensor) -> Tensor:
        """Write the maps to `out`, and return it."""
        torch.bmm(self.queries.expand(len(self.tokens), -1, -1), self.tokens.mT, out=self.product)
        return torch.softmax(self.times_rstd(self.product, self.scaled), -1, out=out)

    def logits_gradient(self, maps: Tensor, dz_BXD: Tensor) -> Tensor:
        """Return the gradient with respect to u · x_n, in the type of the tokens."""
        torch.bmm(dz_BXD, self.tokens.mT, out=self.product)
        dmaps = self.times_rstd(self.product, self.scaled)
        torch.ops.aten._softmax_backward_data.out(dmaps, maps, -1, maps.dtype, grad_input=self.dlogits)
        return self.times_rstd(self.dlogits, self.product)

    def times_rstd(self, values: Tensor, out: Tensor) -> Tensor:
        """Return values times `rstd`, in `out`; without it, the values themselves."""
        return values if self.rstd is None else torch.mul(values, self.rstd, out=out)


class _Room:
    """Memory for the blocks of a batch, which they use in turns.

    Attributes:
        dtype: of the maps.
        batch_bytes: of the maps of the whole batch.
    """

    def __init__(self, x_BND: Tensor, u_AXD: Tensor, rstd_BN: Tensor | None) -> None:
        self._x_BND, self._u_AXD, self._rstd_BN = x_BND, u_AXD, rstd_BN
        self.dtype = x_BND.dtype if rstd_BN is None else torch.promote_types(x_BND.dtype, rstd_BN.dtype)
        image_bytes = u_AXD.shape[1] * x_BND.shape[1] * self.dtype.itemsize
        self.batch_bytes = len(x_BND) * image_bytes
        wanted = CACHE_BYTES * torch.get_num_threads() if x_BND.device.type == "cpu" else GPU_BYTES
        self._length = max(1, wanted // image_bytes, ceil(len(x_BND) / MAX_BLOCKS))

    def make(self, n_images: int, dtype: torch.dtype) -> Tensor:
        """Return memory for one (X, N) per image."""
        return self._x_BND.new_empty(n_images, self._u_AXD.shape[1], self._x_BND.shape[1], dtype=dtype)

    def blocks(self) -> Iterator[tuple[slice, _Block]]:
        """Yield the images of each block, and the block."""
        n_images, shared = len(self._x_BND), len(self._u_AXD) == 1
        length = min(self._length, n_images)
        memory = [self.make(length, dtype) for dtype in (self._x_BND.dtype, self.dtype, self.dtype, self.dtype)]
        for start in range(0, n_images, self._length):
            rows = slice(start, min(start + self._length, n_images))
            rstd_B1N = None if self._rstd_BN is None else self._rstd_BN[rows, None]
            u_AXD = self._u_AXD if shared else self._u_AXD[rows]
            parts = (each[: rows.stop - start] for each in memory)
            yield rows, _Block(self._x_BND[rows], u_AXD, rstd_B1N, *parts)
