"""The blocks of a Hugging Face vision model: found and measured by running it, so that no table of models is needed.

The models' own `hidden_states` differ: the last entry is before the final norm in some models and after it in others;
Swin's entries are after the downsampling. Hooks on the blocks see the raw output of every model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...store.layout import LayerShape
from .hooks import BlockHooks
from .intermediates import flat_map, map_shape, norm_values

Run = Callable[[Tensor], Any]
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""Between two orders of the same float32 sums: a mean over tokens, a norm."""


@dataclass(frozen=True)
class Structure:
    """Blocks of a model and the form of their outputs.

    Attributes:
        blocks: modules whose outputs are the layers.
        shapes: shape of every layer.
        norm: kind, eps, weight and bias of the norm after the last block, or None.
        channels_last: whether blocks return maps (B, H, W, D) instead of (B, D, H, W).
    """

    blocks: Sequence[nn.Module]
    shapes: Sequence[LayerShape]
    norm: dict[str, Any] | None
    channels_last: bool


@dataclass(frozen=True)
class Call:
    """One call of a module: its place in the order of calls, its first tensor in and out."""

    number: int
    given: Tensor
    output: Tensor


def structure_of(module: Any, run: Run, size: tuple[int, int]) -> Structure:
    """Run a model on four small changes of an image, and read its structure from what its modules saw.

    Args:
        module: a transformers model.
        run: runs it on (B, 3, H, W) images.
        size: (height, width) of the images in pixels.

    Raises:
        ValueError: the model has no list of blocks that pass tokens from one to the next, or its tokens do not stand in
            rows over the image, after the prefix.
    """
    patch = patch_sides(module.config)
    calls = _calls(module, run, _test_images(size, patch))
    stages = _stages(module, calls)
    blocks = [_before_downsampling(stage) for stage in stages]
    outputs = [calls[block].output for block in blocks]
    channels_last = outputs[0].ndim == len("BHWD") and _are_channels_last(outputs, size)
    if outputs[0].ndim == len("BND"):
        grid = (size[0] // patch[0], size[1] // patch[1])
        shapes = _token_shapes(outputs, grid, _prefix_length(calls[stages[0]].given, grid))
    else:
        maps = [output.movedim(-1, 1) if channels_last else output for output in outputs]
        shapes = [map_shape(each, 0) for each in maps]
    inner = {part for stage in stages for part in stage.modules()}
    after = {part: call for part, call in calls.items() if part not in inner and call.number > calls[stages[-1]].number}
    norm = _norm_after(after, tokens_of(outputs[-1], channels_last), shapes[-1].n_prefix)
    return Structure(blocks, shapes, norm, channels_last)


def read_blocks(hooks: BlockHooks, images: Tensor, layers: Sequence[int], channels_last: bool) -> list[Tensor]:
    """Run a model; return (B, prefix + patches, dim) for each of the layers, row by row."""
    return [tokens_of(_first_tensor(output), channels_last) for output in hooks(images, layers)]


def tokens_of(output: Tensor, channels_last: bool) -> Tensor:
    """Turn a block's output, tokens or a map with channels first or last, into tokens (B, N, dim)."""
    return output.flatten(1, 2) if channels_last else flat_map(output)


def _calls(module: nn.Module, run: Run, images: Tensor) -> dict[nn.Module, Call]:
    """Run a model; return the call of every module that was called once and passes tensors on."""
    seen: dict[nn.Module, list[Call]] = {}
    in_lists = {part for each in module.modules() if isinstance(each, nn.ModuleList) for part in each}
    wanted = {part for part in module.modules() if part in in_lists or "norm" in type(part).__name__.lower()}

    def keep(part: nn.Module, arguments: Any, named: Mapping[str, Any], output: Any) -> None:
        given, given_on = _first_tensor((*arguments, *named.values())), _first_tensor(output)
        if given is not None and given_on is not None:
            seen.setdefault(part, []).append(Call(sum(map(len, seen.values())), given, given_on))

    handles = [part.register_forward_hook(keep, with_kwargs=True) for part in wanted]
    try:
        with torch.no_grad():
            run(images)
    finally:
        for handle in handles:
            handle.remove()
    return {part: each[0] for part, each in seen.items() if len(each) == 1}


def _stages(module: Any, calls: Mapping[nn.Module, Call]) -> list[nn.Module]:
    """Return the outermost list of as many blocks as the configuration states, each of which feeds the next."""
    depths = getattr(module.config, "depths", None)
    n_layers = len(depths) if depths else getattr(module.config, "num_hidden_layers", None)
    for part in module.modules():
        if isinstance(part, nn.ModuleList) and len(part) == n_layers and all(block in calls for block in part):
            pairs = pairwise(calls[block] for block in part)
            if all(_is_same(before.output, after.given) for before, after in pairs):
                return list(part)
    raise ValueError(
        f"{type(module).__name__} has no hidden states that can be read: no list of its {n_layers} blocks passes "
        "tokens from one to the next"
    )


def _before_downsampling(stage: nn.Module) -> nn.Module:
    """Return the last block of a stage that ends with a downsampling, as in Swin; timm's Swin begins with it."""
    if getattr(stage, "downsample", None) is None:
        return stage
    blocks: Any = stage.blocks
    last: nn.Module = blocks[-1]
    return last


def patch_sides(config: Any) -> tuple[int, int]:
    """Return (height, width) of a patch in pixels by a model's configuration; (1, 1) if it has no patches."""
    side = getattr(config, "patch_size", None) or 1
    return (side, side) if isinstance(side, int) else (side[-2], side[-1])


def _test_images(size: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Return an image, and the same with another first patch, first patch of the second row, and last patch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, *size, generator=generator).repeat(4, 1, 1, 1)
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    for index, (row, column) in enumerate([(0, 0), (min(1, rows - 1), 0), (rows - 1, columns - 1)], 1):
        top, left = row * patch[0], column * patch[1]
        box = images[index, :, top : top + patch[0], left : left + patch[1]]
        box.copy_(torch.randn(box.shape, generator=generator))
    return images


def _prefix_length(embedded: Tensor, grid: tuple[int, int]) -> int:
    """Return the number of tokens before the patches, from the tokens that a change of one patch changes.

    Raises:
        ValueError: the patches do not stand row by row at the end.
    """
    first, second_row, last = (int((each - embedded[0]).abs().sum(-1).argmax()) for each in embedded[1:])
    n_tokens, n_patches = embedded.shape[1], grid[0] * grid[1]
    expected = (n_tokens - n_patches, n_tokens - n_patches + (grid[1] if grid[0] > 1 else 0), n_tokens - 1)
    if (first, second_row, last) != expected:
        raise ValueError(
            f"its {n_tokens} tokens are not a prefix and then {grid[0]} × {grid[1]} patches, row by row: the patches "
            f"at the beginning of row 0, the beginning of row 1 and the end are tokens {first}, {second_row} and {last}"
        )
    return first


def _token_shapes(outputs: Sequence[Tensor], grid: tuple[int, int], n_prefix: int) -> list[LayerShape]:
    shapes: list[LayerShape] = []
    for output in outputs:
        n_patches = output.shape[1] - n_prefix
        while grid[0] * grid[1] > n_patches and grid != (1, 1):
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)  # a stage halves the grid
        if grid[0] * grid[1] != n_patches:
            raise ValueError(f"layer {len(shapes)} has {n_patches} patch tokens, which fill no grid")
        shapes.append(LayerShape(grid, output.shape[2], n_prefix))
    return shapes


def _are_channels_last(maps: Sequence[Tensor], size: tuple[int, int]) -> bool:
    """Return whether only channels last give every map the image's ratio of sides."""
    first = all(_is_grid(each.shape[2], each.shape[3], size) for each in maps)
    return not first and all(_is_grid(each.shape[1], each.shape[2], size) for each in maps)


def _is_grid(height: int, width: int, size: tuple[int, int]) -> bool:
    stride = max(size[0] // height, 1)
    return abs(width - size[1] / stride) <= 1


def _norm_after(calls: Mapping[nn.Module, Call], last: Tensor, n_prefix: int) -> dict[str, Any] | None:
    """Return the values of the norm over the last layer's tokens, or over their pooled token, or None."""
    pooled = [last[:, 0], last.mean(1), last[:, n_prefix:].mean(1)]
    over_tokens = [part for part, call in calls.items() if _ends_with(call.given, last[:, n_prefix:])]
    over_pooled = [part for part, call in calls.items() if any(_is_same(call.given, each) for each in pooled)]
    for part in [*over_tokens, *over_pooled]:
        values = norm_values([part]) or _rms_values(part)
        if values is not None and _is_same(_normed(calls[part].given, values), calls[part].output):
            return values
    return None


def _rms_values(norm: Any) -> dict[str, Any] | None:
    """Return the values of a model's own RMS norm; `_norm_after` compares them with its output."""
    eps, weight = getattr(norm, "variance_epsilon", getattr(norm, "eps", None)), getattr(norm, "weight", None)
    if eps is None or weight is None:
        return None
    return {"kind": "RMSNorm", "eps": eps, "weight": weight.detach().float().tolist(), "bias": None}


def _normed(tokens: Tensor, values: Mapping[str, Any]) -> Tensor:
    weight, bias = (None if values[key] is None else torch.tensor(values[key]) for key in ("weight", "bias"))
    if values["kind"] == "RMSNorm":
        return F.rms_norm(tokens, tokens.shape[-1:], weight, values["eps"])
    return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, values["eps"])


def _ends_with(given: Tensor, patches: Tensor) -> bool:
    if given.ndim == patches.ndim + 1:
        return _is_same(given.flatten(1, 2), patches) or _is_same(flat_map(given), patches)
    return given.ndim == patches.ndim and _is_same(given[:, -patches.shape[1] :], patches)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.allclose(one, other, **TOLERANCE))


def _first_tensor(values: Any) -> Any:
    """Return a tensor, or the first of a tuple or dictionary of outputs, or None."""
    if isinstance(values, Tensor):
        return values
    parts = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)
