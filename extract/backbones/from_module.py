"""Backbones from the user's own code: an `nn.Module` with its blocks named, or a function that returns one."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, TokenprobeError, unknown_name
from ...runtime.imports import import_by_name, is_import_name
from ...store.layout import LayerShape
from ..views import Transform
from .contract import Backbone, BackboneRequest, Tokens
from .hooks import BlockHooks
from .intermediates import norm_values
from .names import reason
from .torchvision_transforms import read_transform

TOKENS, MAPS, MAPS_LAST = "(B, tokens, dim)", "(B, dim, height, width)", "(B, height, width, dim)"
"""Forms of a block's output."""
NAME = "module:"


class ModuleBackbone(Backbone):
    """A module of the user's own, read by hooks on its blocks.

    The module is copied: later training of it changes nothing here, and here it stays in evaluation mode without
    gradients. It is called with images (B, 3, H, W). Each block returns a tensor, or a tuple or list whose first
    element is one:

    * (B, prefix + patches, dim), prefix tokens first, then patches row by row. The grid of patches has the ratio of
      height to width of the images.
    * (B, dim, height, width) or (B, height, width, dim). If both are possible, it is the first.

    The name is the class's. The hash of the weights also covers the class's name, the blocks, the prefix and the norm:
    a store is continued, and a head is put behind the module, only if all are equal. It does not cover the code of
    `forward`.
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: str | Sequence[str],
        *,
        transform: Any = None,
        image_size: int | Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        prefix_names: Sequence[str] = (),
        norm: str | None = None,
    ) -> None:
        """Copy a module, and run it once to find the shapes of its layers.

        Args:
            module: the module, with its weights.
            blocks: path of a list of blocks, such as "encoder.layers", or the paths of single modules.
            transform: an evaluation transform of torchvision, instead of mean and std.
            image_size: height and width of the images in pixels, or one side; not if the transform decides it. Images
                of another size are resized to it, bicubic.
            mean: per channel, of pixels in [0, 1].
            std: per channel, of pixels in [0, 1].
            prefix_names: names of the prefix tokens, in order, such as ["cls", "reg0"].
            norm: path of the norm after the last block, for `probe fit --norm final`.

        Raises:
            InputError: there is no such block or norm, the transform cannot be read, or the outputs are no tokens.
        """
        if isinstance(prefix_names, str):
            raise InputError(f"prefix_names {prefix_names!r}: expected a list of names, such as ['cls']")
        self.name, self.prefix_names = f"{NAME}{type(module).__name__}", list(prefix_names)
        self.transform = _transform(transform, image_size, mean, std)
        self.module = deepcopy(module).eval().requires_grad_(False)
        self._names = _block_names(self.module, blocks)
        self._norm = None if norm is None else _submodule(self.module, norm)
        if norm is not None and norm_values([self._norm]) is None:
            raise InputError(f"norm {norm!r} is a {type(self._norm).__name__}; expected a LayerNorm or an RMSNorm")
        self.arguments = {"blocks": self._names, "prefix_names": self.prefix_names, "norm": norm}
        self._hooks = BlockHooks(self.module, [_submodule(self.module, name) for name in self._names])
        self._forms, self.shapes = self._read_shapes()

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        outputs = self._hooks(images, layers)
        return {layer: self._split(layer, _tensor(x)) for layer, x in zip(layers, outputs, strict=True)}

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`."""
        return norm_values([self._norm])

    def weights_hash(self) -> str:
        """Return the SHA-256 of the weights' hash, the name of the class, and what the module was described by."""
        described = [super().weights_hash(), type(self.module).__name__, self._names, list(self.prefix_names)]
        return hashlib.sha256(json.dumps([*described, self.final_norm()]).encode()).hexdigest()

    def _split(self, layer: int, output: Tensor) -> Tokens:
        form, n = self._forms[layer], self.shapes[layer].n_prefix
        if form == TOKENS:
            return output[:, n:], output[:, :n] if n else None
        return (output.flatten(1, 2) if form == MAPS_LAST else output.flatten(2).transpose(1, 2)), None

    def _read_shapes(self) -> tuple[list[str], list[LayerShape]]:
        device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
        images = torch.zeros(2, 3, *self.transform.input_size, device=device)
        layers = range(len(self._names))
        try:
            outputs = self._hooks(images, layers)
        except KeyError as error:
            raise InputError(
                f"block {self._names[error.args[0]]!r} of {self.name!r} does not run when the module is called with "
                "images; name blocks that do"
            ) from error
        except Exception as error:  # code of any user
            raise InputError(
                f"{self.name!r} fails on images of 3 channels and {self.transform.input_size} pixels: {reason(error)}"
            ) from error
        found = [self._read_shape(name, _tensor(output)) for name, output in zip(self._names, outputs, strict=True)]
        return [form for form, _ in found], [shape for _, shape in found]

    def _read_shape(self, block: str, output: Any) -> tuple[str, LayerShape]:
        """Return form and shape of the output of a block for two images."""
        n_prefix, size = len(self.prefix_names), self.transform.input_size
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if len(shape) == 3 and shape[0] == 2:
            grid = _grid_of(shape[1] - n_prefix, size)
            if grid is not None:
                return TOKENS, LayerShape(grid, shape[2], n_prefix)
        if len(shape) == 4 and shape[0] == 2:
            for form, grid, dim in ((MAPS, shape[2:], shape[1]), (MAPS_LAST, shape[1:3], shape[3])):
                if _fits(grid, size):
                    return form, LayerShape((grid[0], grid[1]), dim, 0)
        raise InputError(
            f"block {block!r} of {self.name!r} returns {shape or type(output).__name__} for 2 images of {size} pixels; "
            f"expected {TOKENS}, of {n_prefix} prefix tokens and a grid of patches like the images, {MAPS} or "
            f"{MAPS_LAST}; give other blocks or prefix_names, or write a subclass of "
            "tokenprobe.extract.backbones.Backbone"
        )


def load_module(request: BackboneRequest) -> Backbone:
    """Refuse the name of a `ModuleBackbone`: a store and a head keep the name, and not the module."""
    raise InputError(
        f"backbone {NAME + request.name!r} is a module of somebody's own and cannot be built by name; from Python give "
        "model=ModuleBackbone(module, …), and on the command line --model python:MODULE:FUNCTION, a function that "
        "returns it (docs/your-own.md)"
    )


def load_python(request: BackboneRequest) -> Backbone:
    """Import a function MODULE:FUNCTION, and call it for the backbone, with the request's arguments.

    Raises:
        InputError: the import or the call fails, or gives no backbone.
    """
    name = f"python:{request.name}"
    if not is_import_name(request.name):
        raise InputError(f"backbone {name!r}: expected python:MODULE:FUNCTION, such as python:mypkg.models:make_vit")
    if request.checkpoint or request.image_size or not request.pretrained:
        raise InputError(
            f"backbone {name!r} builds itself, with its weights and its image size; give them to its function with "
            "--model-arg, and no --checkpoint, --image-size or --no-pretrained"
        )
    make = import_by_name(request.name, "backbone")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            backbone = make(**request.arguments)
    except TokenprobeError:
        raise
    except Exception as error:  # code of any user
        raise InputError(f"backbone {name!r} with {dict(request.arguments)} fails: {reason(error)}") from error
    if not isinstance(backbone, Backbone):
        raise InputError(f"backbone {name!r} is a {type(backbone).__name__}; return a ModuleBackbone(module, …)")
    backbone.name, backbone.arguments = name, request.arguments
    return backbone


def python_code(name: str) -> str:
    """Describe the code that the function of a backbone runs."""
    return f"the Python module {name.partition(':')[0]!r}"


def _transform(
    transform: Any, image_size: int | Sequence[int] | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Transform:
    sides = [] if image_size is None else [image_size] if isinstance(image_size, int) else list(image_size)
    size = (int(sides[0]), int(sides[-1])) if sides else None
    if isinstance(transform, Transform):
        return transform
    if transform is not None and mean is None and std is None:
        return read_transform(transform, size)
    if transform is not None or size is None or mean is None or std is None:
        raise InputError("give a transform of torchvision, or image_size, mean and std; not both")
    return Transform(size, "bicubic", None, "none", tuple(map(float, mean)), tuple(map(float, std)))


def _block_names(module: nn.Module, blocks: str | Sequence[str]) -> list[str]:
    if not isinstance(blocks, str):
        return list(blocks)
    container = _submodule(module, blocks)
    if not isinstance(container, nn.ModuleList | nn.Sequential) or not len(container):
        raise InputError(
            f"blocks {blocks!r} is a {type(container).__name__}, not a list of blocks; give a list of paths: "
            f"blocks=[{blocks!r}]"
        )
    return [f"{blocks}.{name}" for name, _ in container.named_children()]


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in module.named_modules() if name]
        raise unknown_name(f"module of {type(module).__name__}", path, known) from None


def _tensor(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) and output else output


def _grid_of(n_patches: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of n patches that is nearest to the ratio of the images, if it has that ratio."""
    height = round(sqrt(max(n_patches, 0) * size[0] / size[1]))
    if height < 1 or n_patches % height:
        return None
    grid = height, n_patches // height
    return grid if _fits(grid, size) else None


def _fits(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Return whether a grid has the images' ratio of height to width, up to one row or column."""
    return abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)
