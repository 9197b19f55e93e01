"""torch.hub models, read by hooks on their blocks. A table holds the differences between them.

Loading a hub entry runs the code of its repository: name only repositories you trust.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ...errors import InputError, MissingError
from ...store.layout import LayerShape
from ..views import Transform
from .contract import Backbone, BackboneRequest, Tokens
from .hooks import BlockHooks, flat_blocks
from .intermediates import norm_values
from .names import reason
from .weights.files import load_checkpoint
from .weights.loading import load_weights

DEFAULT_SIZE = (224, 224)
CROP_PCT = 224 / 256
"""All these models were evaluated on the centre of an image resized to 8/7 of the size."""


@dataclass(frozen=True)
class Family:
    """Structure of the models of one training code. Paths are dotted, from the model.

    Attributes:
        name: name of the code.
        marks: paths that exist in its models, and identify them.
        blocks: path of the list of blocks; each returns (B, prefix + patches, dim), prefix first, or a list with one
            such tensor.
        norm: path of the norm after the last block.
        patch_size: path of the patch size in pixels: one side, or two.
        n_cls: number of class tokens at the beginning, or its path; the other prefix tokens are registers.
        mean: mean of the model's input pixels, in [0, 1].
        std: standard deviation of the model's input pixels, in [0, 1].
    """

    name: str
    marks: tuple[str, ...]
    blocks: str = "blocks"
    norm: str = "norm"
    patch_size: str = "patch_size"
    n_cls: int | str = 1
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


FAMILIES = (
    Family(
        "RADIO",
        ("input_conditioner", "model.blocks", "model.patch_generator"),
        blocks="model.blocks",
        norm="model.norm",
        n_cls="model.patch_generator.num_cls_tokens",
        mean=(0.0, 0.0, 0.0),  # it normalises for itself
        std=(1.0, 1.0, 1.0),
    ),
    Family("CAPI", ("encoder.blocks", "registers", "enc_norm"), blocks="encoder.blocks", norm="enc_norm", n_cls=0),
    Family("DINOv2, DINOv3, Franca", ("blocks", "cls_token", "patch_size")),
    Family("DINO", ("blocks", "cls_token", "patch_embed.patch_size"), patch_size="patch_embed.patch_size"),
)
"""A model belongs to the first family whose marks it has."""

PUBLISHED: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "facebookresearch/dino:main": {
        "dino_vits16": (12, 384, 16, 1),
        "dino_vits8": (12, 384, 8, 1),
        "dino_vitb16": (12, 768, 16, 1),
        "dino_vitb8": (12, 768, 8, 1),
    },
    "facebookresearch/dinov2": {
        "dinov2_vits14": (12, 384, 14, 1),
        "dinov2_vitb14": (12, 768, 14, 1),
        "dinov2_vitl14": (24, 1024, 14, 1),
        "dinov2_vitg14": (40, 1536, 14, 1),
        "dinov2_vits14_reg": (12, 384, 14, 5),
        "dinov2_vitb14_reg": (12, 768, 14, 5),
        "dinov2_vitl14_reg": (24, 1024, 14, 5),
        "dinov2_vitg14_reg": (40, 1536, 14, 5),
    },
    "facebookresearch/dinov3": {
        "dinov3_vits16": (12, 384, 16, 5),
        "dinov3_vits16plus": (12, 384, 16, 5),
        "dinov3_vitb16": (12, 768, 16, 5),
        "dinov3_vitl16": (24, 1024, 16, 5),
        "dinov3_vith16plus": (32, 1280, 16, 5),
        "dinov3_vit7b16": (40, 4096, 16, 5),
    },
    "valeoai/Franca": {
        "franca_vitb14": (12, 768, 14, 1),
        "franca_vitl14": (24, 1024, 14, 1),
        "franca_vitg14": (40, 1536, 14, 1),
    },
    "facebookresearch/capi:main": {
        "capi_vitl14_lvd": (24, 1024, 14, 16),
        "capi_vitl14_p205": (24, 1024, 14, 16),
        "capi_vitl14_in22k": (24, 1024, 14, 16),
        "capi_vitl14_in1k": (24, 1024, 14, 16),
    },
}
"""Layers, width, patch size in pixels and prefix tokens of the published models. RADIO is absent: it has one entry, and
its file decides."""

SATELLITE = "sat493m"
"""Part of the file names of DINOv3's weights for satellite images."""
OF_SATELLITES = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
"""Mean and deviation of their pixels. Source: README of facebookresearch/dinov3."""

GITHUB_FORM = re.compile(r"[\w-]+/[\w.-]+(:.+)?")
"""OWNER/NAME[:BRANCH]; anything else is a folder."""


class HubBackbone(Backbone):
    """A torch.hub model; see `load_hub`."""

    def __init__(
        self, name: str, module: nn.Module, arguments: Mapping[str, Any], transform: Transform, family: Family
    ) -> None:
        self.name, self.module, self.arguments, self.transform = name, module, arguments, transform
        self._norm = _get(module, family.norm)
        self._blocks = BlockHooks(module, flat_blocks(_get(module, family.blocks)))
        images = torch.zeros(1, 3, *transform.input_size)
        n_tokens, dim = _tensor(self._blocks(images, [0])[0]).shape[1:]
        patch = _get(module, family.patch_size)
        patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
        grid = (transform.input_size[0] // patch_height, transform.input_size[1] // patch_width)
        self._n_prefix = n_tokens - grid[0] * grid[1]
        n_cls = family.n_cls if isinstance(family.n_cls, int) else int(_get(module, family.n_cls))
        if self._n_prefix < n_cls:
            raise ValueError(f"{n_tokens} tokens are fewer than a grid of {grid} and {n_cls} class tokens")
        self.shapes = [LayerShape(grid, dim, self._n_prefix)] * len(self._blocks)
        self.prefix_names = _prefix_names(n_cls, self._n_prefix)

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        outputs = map(_tensor, self._blocks(images, layers))
        n = self._n_prefix
        return {layer: (x[:, n:], x[:, :n] if n else None) for layer, x in zip(layers, outputs, strict=True)}

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`."""
        return norm_values([self._norm])


def load_hub(request: BackboneRequest) -> HubBackbone:
    """Load a model by its hub entry, freeze it, and find its blocks.

    Raises:
        InputError: the repository or its weights cannot be downloaded, its code fails, the weights do not fit, or the
            model belongs to no family in the table.
        MissingError: no such folder.
    """
    repository, entry = split_entry(request.name)
    checkpoint = load_checkpoint(request.checkpoint) if request.checkpoint else None
    module = _run_entry(repository, entry, request)
    family = next((each for each in FAMILIES if all(_has(module, mark) for mark in each.marks)), None)
    if family is None:
        raise InputError(
            f"hub model {request.name!r} has an unknown structure: {type(module).__name__} has no list of blocks as in "
            f"{'; '.join(row.name for row in FAMILIES)}"
        )
    loaded = load_weights(module, checkpoint, request.reading) if checkpoint else None
    module.eval().requires_grad_(False)
    size = request.image_size or DEFAULT_SIZE
    mean, std = OF_SATELLITES if _is_of_satellites(request) else (family.mean, family.std)
    transform = Transform(size, "bicubic", CROP_PCT, "center", mean, std)
    name = f"hub:{os.path.basename(os.path.abspath(repository))}/{entry}" if _is_local(repository) else None
    arguments = {key: _portable_value(value) for key, value in request.arguments.items()}
    try:
        backbone = HubBackbone(name or f"hub:{request.name}", module, arguments, transform, family)
    except Exception as error:  # code of any repository
        raise InputError(f"hub model {request.name!r} fails on images of {size} pixels: {reason(error)}") from error
    backbone.loaded = loaded
    return backbone


def hub_names() -> list[str]:
    """Return the published entries whose models are known."""
    return [f"{repository}/{entry}" for repository, entries in PUBLISHED.items() for entry in entries]


def hub_shapes(name: str) -> list[LayerShape]:
    """Return the shapes of a published model's layers, without running its code."""
    repository, entry = split_entry(name)
    n_layers, dim, patch, n_prefix = PUBLISHED[repository][entry]
    return [LayerShape((DEFAULT_SIZE[0] // patch, DEFAULT_SIZE[1] // patch), dim, n_prefix)] * n_layers


def split_entry(name: str) -> tuple[str, str]:
    """Split "REPO/ENTRY"; REPO is a folder with a hubconf.py, or "OWNER/NAME[:BRANCH]" on GitHub.

    Raises:
        InputError: the name has another form.
    """
    repository, _, entry = name.rpartition("/")
    if not repository or not entry:
        raise InputError(
            f"hub model {name!r}: expected REPO/ENTRY, such as hub:facebookresearch/dinov2/dinov2_vitb14 or "
            "hub:/path/to/dinov3/dinov3_vitb16"
        )
    return os.path.expanduser(repository), entry


def absolute_entry(name: str) -> str:
    """Return the name of an entry, with a local repository's path made absolute."""
    repository, entry = split_entry(name)
    return f"{os.path.abspath(repository)}/{entry}" if _is_local(repository) else name


def hub_code(name: str) -> str:
    """Describe the code that a hub entry runs."""
    repository, _ = split_entry(name)
    if GITHUB_FORM.fullmatch(repository) and not _is_local(repository):
        return f"code from https://github.com/{repository.partition(':')[0]}"
    return f"the hubconf.py in {os.path.abspath(repository)!r}"


def _run_entry(repository: str, entry: str, request: BackboneRequest) -> Any:
    if not _is_local(repository) and not GITHUB_FORM.fullmatch(repository):
        raise MissingError(f"no folder at {repository!r}; expected a hubconf.py in it, with the entry {entry!r}")
    arguments = {**request.arguments, **({} if request.downloads else {"pretrained": False})}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            return torch.hub.load(
                repository,
                entry,
                source="local" if _is_local(repository) else "github",
                trust_repo=True,  # the user named it; torch would ask on the terminal
                skip_validation=True,  # torch would query GitHub's interface about the branches of forks
                verbose=False,
                **arguments,
            )
    except TypeError as error:
        if request.wants_published and not request.downloads:  # this entry always loads its weights
            return _run_entry(repository, entry, replace(request, fetches=True))
        raise InputError(f"hub model {request.name!r} does not take {arguments}: {reason(error)}") from error
    except Exception as error:  # code of any repository, from the network
        raise InputError(
            f"hub model {request.name!r} could not be loaded ({reason(error)}); without a network, name a local clone "
            "and give the weights with --checkpoint"
        ) from error


def _is_of_satellites(request: BackboneRequest) -> bool:
    files = [request.checkpoint, *request.arguments.values()]
    return any(SATELLITE in os.path.basename(str(file)).lower() for file in files)


def _is_local(repository: str) -> bool:
    return os.path.isdir(repository)


def _portable_value(value: Any) -> Any:
    """Drop the parent folders of a file's path: a manifest holds no absolute path."""
    return os.path.basename(value) if isinstance(value, str) and os.path.isfile(value) else value


def _get(module: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), module)


def _has(module: Any, path: str) -> bool:
    try:
        return _get(module, path) is not None
    except AttributeError:
        return False


def _tensor(output: Any) -> Tensor:
    """Return a block's tokens; DINOv3's blocks take and return lists of batches."""
    tokens: Tensor = output[0] if isinstance(output, list) else output
    return tokens


def _prefix_names(n_cls: int, n_prefix: int) -> list[str]:
    """Name the class tokens, then the registers. RADIO has one class token per teacher."""
    classes = ["cls", *(f"cls{index}" for index in range(1, n_cls))][:n_cls]
    return classes + [f"reg{index}" for index in range(n_prefix - n_cls)]
