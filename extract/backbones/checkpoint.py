"""Weights from a file: safetensors, or a torch file read without running any code in it."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import InputError, MissingError

WRAPPERS = ("model", "state_dict", "model_state", "teacher", "encoder")
"""Keys under which published training files keep the weights."""

PREFIXES = ("module.", "backbone.", "encoder.")
"""What wrappers such as DistributedDataParallel put before every name."""


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the weights in a file, and its safetensors metadata.

    Raises:
        MissingError: no such file.
        InputError: not a weights file, or one that would run code.
    """
    if not path.is_file():
        raise MissingError(f"no checkpoint at {str(path)!r}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return _weights_in(weights, path), file.metadata() or {}
        except SafetensorError as error:
            raise InputError(f"checkpoint {str(path)!r} is not a readable safetensors file: {error}") from error
    return _weights_in(_load_torch(path), path), {}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Load weights into a module; every weight of the module must be there.

    Returns:
        The names that the module has no place for.

    Raises:
        InputError: the module has a weight that the file lacks, or one of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    if missing:
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: it lacks {len(missing)} of the backbone's {len(own)} weights, "
            f"such as {missing[0]!r} (it has {', '.join(map(repr, list(weights)[:3]))}, …); "
            "check --model and --model-arg"
        )
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise InputError(
                f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(weights[name].shape)} there and "
                f"{tuple(tensor.shape)} in the backbone; check --model and --model-arg"
            )
    module.load_state_dict({name: weights[name] for name in own})
    return [name for name in weights if name not in own]


def _load_torch(path: Path) -> Any:
    # Published training files (MAE's, DINO's) keep their command line, an argparse.Namespace, beside the weights.
    # A file that is damaged makes the unpickler fail in any way at all.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error.__context__ or error)  # torch wraps the unpickler's reason in advice to run the code
        if "GLOBAL " in reason:
            raise InputError(
                f"checkpoint {str(path)!r} holds pickled code, which is not run; save its state_dict alone, "
                "best as safetensors"
            ) from error
        shown = "not in torch's format" if "weights_only" in reason else f"{type(error).__name__} {_first_line(reason)}"
        raise InputError(f"checkpoint {str(path)!r} is not a readable torch file: {shown.strip()}") from error


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a training file holds, and strip wrappers from its names."""
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not weights:
        raise InputError(f"checkpoint {str(path)!r} holds no weights: looked for tensors, also under {WRAPPERS}")
    for prefix in PREFIXES:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        if len(stripped) < len(weights):
            raise InputError(
                f"checkpoint {str(path)!r} has weights both with and without {prefix!r} before their names; "
                "save those of the backbone alone"
            )
        weights = stripped
    return weights


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
