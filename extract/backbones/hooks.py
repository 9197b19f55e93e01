"""Hooks that catch the outputs of blocks while a module runs its own forward pass."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class BlockHooks:
    """Runs a module, or a function that runs it, and returns the outputs of some of its submodules."""

    def __init__(self, module: Callable[[Tensor], Any], blocks: Sequence[nn.Module]) -> None:
        self._module, self._blocks = module, blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __call__(self, images: Tensor, layers: Sequence[int]) -> list[Any]:
        """Run the module on (B, 3, H, W) images; return the output of each block in `layers`, unchanged."""
        outputs: dict[int, Any] = {}

        def keep(layer: int) -> Any:
            return lambda module, inputs, output: outputs.__setitem__(layer, output)

        handles = [self._blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
        try:
            with torch.no_grad():
                self._module(images)
        finally:
            for handle in handles:
                handle.remove()
        return [outputs[layer] for layer in layers]


def flat_blocks(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """Flatten blocks that may be chunked for sharding, as lists of blocks padded with identities."""
    flat: list[nn.Module] = []
    for block in blocks:
        inner = list(block) if isinstance(block, nn.ModuleList) else [block]
        flat += [each for each in inner if not isinstance(each, nn.Identity)]
    return flat
