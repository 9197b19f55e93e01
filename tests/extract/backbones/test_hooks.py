"""Outputs of blocks while a module runs."""

import pytest
import torch
from torch import nn

from tokenprobe.extract.backbones.hooks import BlockHooks, flat_blocks


def test_outputs_are_those_of_the_blocks_and_no_hook_stays() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    hooks = BlockHooks(module, list(module))
    x = torch.randn(2, 3)
    last, first = hooks(x, [2, 0])
    assert torch.equal(first, module[0](x))
    assert torch.equal(last, module(x))
    assert len(hooks) == 3
    assert not any(block._forward_hooks for block in module)


def test_no_hook_stays_where_the_module_fails() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        BlockHooks(module, list(module))(torch.randn(2, 3), [0])
    assert not module[0]._forward_hooks


def test_chunks_are_flattened_without_their_padding() -> None:
    a, b, c = (nn.Linear(1, 1) for _ in range(3))
    assert flat_blocks(nn.ModuleList([a, b, c])) == [a, b, c]
    chunked = nn.ModuleList([nn.ModuleList([a, b]), nn.ModuleList([nn.Identity(), nn.Identity(), c])])
    assert flat_blocks(chunked) == [a, b, c]
