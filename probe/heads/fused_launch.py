"""How the kernels of `fused_kernels.py` divide their work, and their launch. Importing this needs Triton."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import fused_kernels as kernels

TILE = 128 * 256
"""Scores of a tile, in float32: they take half of the registers of eight warps."""
SHARED_BYTES = 96 * 2**10
"""Shared memory of a program, where no device says how much it has."""


class Tiles(NamedTuple):
    """How a kernel divides its work.

    Attributes:
        queries: of a program, a power of two from 16.
        tokens: of an image, padded to a power of two from 16.
        width: channels of a slice, a power of two from 16.
        warps: of a program.
        stages: slices that are in shared memory at once: one in use, others on their way.
    """

    queries: int
    tokens: int
    width: int
    warps: int
    stages: int


def choose_tiles(x_BND: Tensor, n_queries: int, *, backward: bool) -> Tiles:
    """Choose the tiles of a kernel: as many scores as registers hold, as many slices ahead as shared memory holds."""
    itemsize, tokens, n_factors = x_BND.itemsize, power_of_two(x_BND.shape[1]), 2 if backward else 1
    most = TILE // n_factors // tokens // (1 if itemsize == 2 else 4)  # float32 has no matrix unit
    queries = min(power_of_two(n_queries), max(16, most), 128)
    room = shared_bytes(x_BND.device)
    if not backward:
        room -= queries * tokens * itemsize  # the maps, where warps exchange them for the second product
    width = min(power_of_two(x_BND.shape[2]), 128 // itemsize)
    slice_bytes = (n_factors * queries + tokens) * width * itemsize
    while slice_bytes * 2 > room and width > 16:
        width, slice_bytes = width // 2, slice_bytes // 2
    warps = 8 if queries * tokens * n_factors >= TILE // 2 else 4
    return Tiles(queries, tokens, width, warps, stages=max(1, min(3, room // slice_bytes)))


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is n or more, and 16 or more: a matrix unit takes no fewer."""
    return max(16, 1 << (n - 1).bit_length())


def shared_bytes(device: torch.device) -> int:
    """Return the shared memory that a program can have on a device."""
    if device.type != "cuda":
        return SHARED_BYTES
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


def launch_nothing() -> None:
    """Compile a kernel that does nothing, and launch it."""
    kernels.nothing[(1,)]()


class Attention:
    """Queries over the tokens of images, as the kernels take them.

    The tensors may have any strides whose last is 1, but for those of the tokens.
    """

    def __init__(self, x_BND: Tensor, u_GXD: Tensor, scale_BN: Tensor | None, mean_BN: Tensor | None) -> None:
        """Take tokens and queries.

        Args:
            x_BND: tokens, contiguous.
            u_GXD: queries of the same type; G is B, or 1 where they are the same for all images.
            scale_BN: r, float32, contiguous; None for 1.
            mean_BN: m, likewise; None for 0, and only where r is None.
        """
        self._tokens, self._u_GXD = (x_BND, scale_BN, mean_BN), u_GXD

    def forward(self, z_BXD: Tensor, lse_BX: Tensor, tiles: Tiles | None = None) -> None:
        """Write z, and the log-sum-exp of the scores in float32.

        Args:
            z_BXD: of any type.
            lse_BX: float32.
            tiles: others than `choose_tiles` chooses.
        """
        self._launch(kernels.forward, (z_BXD, lse_BX), tiles or self._choose_tiles(backward=False))

    def backward(
        self, lse_BX: Tensor, g_BXD: Tensor, h_BX: Tensor | None, ds_BXN: Tensor, tiles: Tiles | None = None
    ) -> None:
        """Write r ds, the gradient of the products u·x_n.

        Args:
            lse_BX: as `forward` writes it.
            g_BXD: gradient of z, of any type; it is rounded to that of the tokens.
            h_BX: gradient of the log-sum-exp, float32, or None for 0.
            ds_BXN: of any type.
            tiles: others than `choose_tiles` chooses.
        """
        self._launch(kernels.backward, (lse_BX, g_BXD, h_BX, ds_BXN), tiles or self._choose_tiles(backward=True))

    def _choose_tiles(self, *, backward: bool) -> Tiles:
        return choose_tiles(self._tokens[0], self._u_GXD.shape[1], backward=backward)

    def _launch(self, kernel: Any, others: tuple[Tensor | None, ...], tiles: Tiles) -> None:
        (n_images, n_tokens, dim), (n_groups, n_queries, _) = self._tokens[0].shape, self._u_GXD.shape
        operands: list[Any] = [
            *self._tokens,
            self._u_GXD,
            self._u_GXD.stride(0) * (n_groups > 1),
            self._u_GXD.stride(1),
        ]
        for tensor in others:
            operands += [tensor, *((0, 0) if tensor is None else tensor.stride()[:2])]
        n_programs = n_images * -(-n_queries // tiles.queries)
        with torch.cuda.device_of(self._tokens[0]):
            kernel[(n_programs,)](
                *operands, n_queries, n_tokens, dim, *tiles[:3], num_warps=tiles.warps, num_stages=tiles.stages
            )
