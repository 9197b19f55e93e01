"""Vision models of Hugging Face transformers, read by hooks on their blocks, with their own image processor.

Weights are read from safetensors alone. Code of a model's repository runs only if `--model-arg` has
`trust_remote_code=True`.
"""

import inspect
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import torch
from torch import Tensor, nn

from ...errors import InputError, MissingError, unknown_name
from ..views import Transform
from .contract import Backbone, BackboneRequest, Tokens
from .hooks import BlockHooks
from .names import portable, reason
from .transformers_blocks import patch_sides, read_blocks, structure_of
from .transformers_preprocessing import transform_of

LOCAL = "local-dir:"
REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""ORG/NAME, or NAME alone, on the Hugging Face hub."""
OF_LOADING = ("trust_remote_code", "revision")
"""Arguments of --model-arg that are not settings of the model."""
UNUSED = "pooler."
"""Prefix of weights that no token depends on; many published weights lack them."""


class TransformersBackbone(Backbone):
    """A vision model of Hugging Face transformers; see `load_transformers`."""

    packages = ("transformers",)

    def __init__(self, name: str, module: nn.Module, arguments: Mapping[str, Any], transform: Transform) -> None:
        self.name, self.module, self.arguments, self.transform = name, module, arguments, transform
        self._takes = frozenset(inspect.signature(module.forward).parameters)
        structure = structure_of(module, self._run, transform.input_size)
        self._blocks = BlockHooks(self._run, structure.blocks)
        self.shapes, self._norm, self._channels_last = structure.shapes, structure.norm, structure.channels_last
        self.prefix_names = _prefix_names(module, self.shapes[-1].n_prefix)

    @property
    def interpolates(self) -> bool:
        """Whether the model resamples its position table in every forward pass, because the caller asks for it."""
        sides: Any = getattr(self.module.config, "image_size", None)
        built = (sides, sides) if isinstance(sides, int) else tuple(sides or self.transform.input_size)
        return "interpolate_pos_encoding" in self._takes and built != self.transform.input_size

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        n = self.shapes[-1].n_prefix
        outputs = read_blocks(self._blocks, images, layers, self._channels_last)
        return {layer: (x[:, n:], x[:, :n] if n else None) for layer, x in zip(layers, outputs, strict=True)}

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`."""
        return self._norm

    def _run(self, images: Tensor) -> Any:
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if self.interpolates else {}
        if "noise" in self._takes:  # the MAE drops and orders patches by it: without masking, and in their own order
            height, width = patch_sides(self.module.config)
            n_patches = (images.shape[2] // height) * (images.shape[3] // width)
            options["noise"] = torch.arange(float(n_patches), device=images.device).expand(len(images), -1)
        return self.module(pixel_values=images, **options)


def load_transformers(request: BackboneRequest) -> TransformersBackbone:
    """Build the vision model of a configuration, load its weights and freeze it. Text towers are dropped.

    Raises:
        InputError: no such model, it does not read images, its blocks cannot be read, it does not take the arguments,
            its image processor has no equivalent here, or its weights lack some or cannot be downloaded.
        MissingError: no such folder.
    """
    package = _package()
    if request.checkpoint:
        raise InputError(
            f"transformers models take no --checkpoint: save {str(request.checkpoint)!r} as model.safetensors in a "
            "folder with config.json and preprocessor_config.json, and name transformers:local-dir:FOLDER"
        )
    place = _place(request)
    options = {name: value for name, value in request.arguments.items() if name in OF_LOADING}
    with _built(request, package):
        config = package.AutoConfig.from_pretrained(place, **options)
        _change(config, request)
        processor = package.AutoImageProcessor.from_pretrained(place, **options).to_dict()
        module = _pretrained(request, place, config, options) if request.downloads else _drawn(config, options)
    _check_input(module, request)
    module.eval().requires_grad_(False)
    transform = transform_of(processor, request.name, request.image_size)
    try:
        backbone = TransformersBackbone(f"transformers:{portable(request.name)}", module, request.arguments, transform)
    except Exception as error:  # any model, with any arguments
        advice = "; leave out --image-size for the model's own size" if request.image_size else ""
        raise InputError(
            f"transformers model {request.name!r} cannot be read at {transform.input_size} pixels: "
            f"{reason(error)}{advice}"
        ) from error
    if backbone.interpolates:
        grid = backbone.shapes[0].grid
        backbone.notes = [f"position table resampled to {grid[0]} × {grid[1]} by the model in every forward pass"]
    return backbone


def remote_code(name: str, arguments: Mapping[str, Any]) -> str:
    """Describe the code that loading a model would run, beside that of the package transformers; "" if none."""
    if not arguments.get("trust_remote_code"):
        return ""
    if name.startswith(LOCAL):
        return f"the code in {os.path.abspath(name.removeprefix(LOCAL))!r}"
    return f"code from https://huggingface.co/{name}"


def _package() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "transformers: models need the package transformers: pip install 'tokenprobe[transformers]'"
        ) from error
    return transformers


def _place(request: BackboneRequest) -> str:
    """Return the folder or the hub's name of a model."""
    if not request.name.startswith(LOCAL):
        if not REPOSITORY.fullmatch(request.name) or os.path.isdir(request.name):
            raise InputError(
                f"transformers model {request.name!r}: expected ORG/NAME on the Hugging Face hub, such as "
                "transformers:facebook/dinov2-base, or transformers:local-dir:FOLDER"
            )
        return request.name
    folder = Path(request.name.removeprefix(LOCAL)).expanduser()
    if not folder.is_dir():
        raise MissingError(f"no folder at {str(folder)!r}; expected a model that save_pretrained wrote")
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise InputError(
                f"folder {str(folder)!r} has no {name}; write it there with save_pretrained of the model and of its "
                "image processor"
            )
    if request.downloads and not any(folder.glob("*.safetensors")):
        raise InputError(
            f"folder {str(folder)!r} has no weights in safetensors, and no other form is read; write them with "
            "save_pretrained, or give --no-pretrained"
        )
    return str(folder)


def _change(config: Any, request: BackboneRequest) -> None:
    """Set the arguments of --model-arg in the configuration of the vision model, and switch masking off."""
    tower = getattr(config, "vision_config", config)
    for name, value in request.arguments.items():
        if name not in OF_LOADING:
            if not hasattr(tower, name):
                raise unknown_name(f"setting of transformers model {request.name!r}", name, sorted(tower.to_dict()))
            setattr(tower, name, value)
    if hasattr(tower, "mask_ratio"):
        tower.mask_ratio = 0.0


def _drawn(config: Any, options: Mapping[str, Any]) -> Any:
    tower = getattr(config, "vision_config", config)
    trust = bool(options.get("trust_remote_code"))
    return _package().AutoModel.from_config(tower, dtype=torch.float32, trust_remote_code=trust)


def _pretrained(request: BackboneRequest, place: str, config: Any, options: Mapping[str, Any]) -> Any:
    """Load a model with its published weights, and return its vision tower.

    Raises:
        InputError: the weights lack some that tokens depend on.
    """
    model, found = _package().AutoModel.from_pretrained(
        place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
    )
    tower = getattr(model, "vision_model", model) if hasattr(config, "vision_config") else model
    prefix = next(f"{name}." if name else "" for name, part in model.named_modules() if part is tower)
    missing = [name.removeprefix(prefix) for name in sorted(found["missing_keys"]) if name.startswith(prefix)]
    needed = [name for name in missing if not name.startswith(UNUSED)]
    if needed:
        raise InputError(
            f"the weights of transformers model {request.name!r} lack {len(needed)} of the model's "
            f"{len(tower.state_dict())}, such as {needed[0]!r}; use other weights, or --model-arg that fits them"
        )
    if missing:
        tower.pooler = None  # else its drawn weights would be part of the hash of all weights
    return tower


def _check_input(module: Any, request: BackboneRequest) -> None:
    """Refuse models that do not read pixels alone."""
    kind = type(module).__name__
    if getattr(module, "main_input_name", "pixel_values") != "pixel_values":
        raise InputError(
            f"transformers model {request.name!r} is not a vision model: {kind} reads {module.main_input_name}"
        )
    takes = inspect.signature(module.forward).parameters.values()
    others = [
        each.name
        for each in takes
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "pixel_values"
    ]
    if others or not any(each.name == "pixel_values" for each in takes):
        raise InputError(
            f"transformers model {request.name!r} reads more than the pixels of an image: {kind} needs "
            f"{', '.join(others) or 'other inputs'}; name a model of a fixed image size, such as "
            "transformers:google/siglip2-base-patch16-224"
        )


def _prefix_names(module: Any, n_prefix: int) -> list[str]:
    """Name the prefix tokens: class, then distillation or further class tokens, then registers."""
    n_registers = min(getattr(module.config, "num_register_tokens", 0) or 0, n_prefix)
    distils = any(name.endswith("distillation_token") for name, _ in module.named_parameters())
    classes = ["cls", *(["dist"] if distils else []), *(f"cls{index}" for index in range(1, n_prefix))]
    return classes[: n_prefix - n_registers] + [f"reg{index}" for index in range(n_registers)]


def _hub_bars() -> Any:
    return huggingface_hub.utils  # does not export its functions on bars by name, as mypy wants


@contextmanager
def _built(request: BackboneRequest, package: Any) -> Iterator[None]:
    """Build with the request's seed, without log messages and bars; turn errors of transformers into one line."""
    disabled, bars, hub = logging.root.manager.disable, package.utils.logging, _hub_bars()
    shows, hub_shows = bars.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.disable(logging.CRITICAL)
    bars.disable_progress_bar()  # the hub's too
    if hub_shows:
        hub.enable_progress_bars()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            yield
    except InputError:
        raise
    except Exception as error:  # any model, with any arguments, from any hub
        raise InputError(
            f"transformers model {request.name!r} cannot be built or its weights cannot be downloaded ({reason(error)}"
            "); check the name and --model-arg, or name a folder: transformers:local-dir:FOLDER"
        ) from error
    finally:
        logging.disable(disabled)
        if shows:
            bars.enable_progress_bar()
        if not hub_shows:
            hub.disable_progress_bars()
