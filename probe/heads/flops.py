"""The cost of computing a head: floating-point operations of matrix products and convolutions, two per multiply-add."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from ...runtime.compiler import without_compiler
from . import fused as fused  # registers the operations that are counted here


class Flops(NamedTuple):
    """Operations for one image.

    Attributes:
        forward: from tokens to the output.
        train: forward and backward, without the gradient with respect to the tokens.
    """

    forward: int
    train: int


def count_flops(module: nn.Module, n_tokens: int, dim: int) -> Flops:
    """Count the operations that one more image in a batch costs.

    Products of weights alone do not count: a batch makes them once for any number of images.

    Args:
        module: tokens (B, N, dim) to anything; on the "meta" device, where nothing is computed.
        n_tokens: N.
        dim: width of the tokens.
    """
    two, three = without_compiler(lambda: [_count(module, n_images, n_tokens, dim) for n_images in (2, 3)])
    return Flops(three.forward - two.forward, three.train - two.train)


def _count(module: nn.Module, n_images: int, n_tokens: int, dim: int) -> Flops:
    x_BND = torch.empty(n_images, n_tokens, dim, device="meta")
    with FlopCounterMode(display=False) as forward:
        output = module(x_BND)
    with FlopCounterMode(display=False) as backward:
        if output.requires_grad:
            output.sum().backward()
    return Flops(forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops())


@register_flop_formula(torch.ops.tokenprobe.attend)
def _attend_flop(x_shape: Sequence[int], u_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Count two products of queries and tokens: the scores, and z."""
    (n_images, n_tokens, dim), n_queries = x_shape, u_shape[1]
    return 2 * (2 * n_images * n_queries * n_tokens * dim)


@register_flop_formula(torch.ops.tokenprobe.attend_scores_backward)
def _attend_scores_backward_flop(x_shape: Sequence[int], u_shape: Sequence[int], *_: Any, **__: Any) -> int:
    """Count the product that the gradient needs, but not the recomputed scores: they are no cost of the head."""
    return _attend_flop(x_shape, u_shape) // 2
