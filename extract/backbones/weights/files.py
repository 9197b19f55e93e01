"""Weights in files: safetensors, or torch files read without running their code, whole or in shards.

Keys of nested dictionaries and dots in a weight's name mean the same: the place of the weight. Each weight therefore
gets one dotted name: {"teacher": {"backbone.norm.bias": …}} becomes "teacher.backbone.norm.bias".
"""

import argparse
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ....errors import InputError, MissingError
from .foreign import foreign_kind, is_safetensors, safetensors_fault

INDEX = ".index.json"
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
OPTIMIZERS = ("opt", "optim", "optimizer", "optimizers", "optimizer_states", "optimizer_state_dict")
"""Keys of optimizer states. Their tensors can have the shape, and sometimes the name, of a weight."""
MAX_DEPTH = 8
"""Largest depth of nested dictionaries. A hostile file may nest them without end."""
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace,  # published training files (MAE's, DINO's) keep their command line beside the weights
    np.dtype,  # other files keep their best accuracy, a NumPy scalar
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"},
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # NumPy 1
]
"""Classes that the reader of torch files may create: none of them runs code."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        path: path of the file, or of the index of its shards.
        weights: weights by dotted name; the keys of nested dictionaries come first.
        sets: prefix of the weight names in each dictionary, such as "teacher."; "" at the top.
        metadata: metadata of a safetensors file.
    """

    path: Path
    weights: dict[str, Tensor]
    sets: tuple[str, ...]
    metadata: dict[str, str]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a file, or in the shards of an index or of a folder with an index.

    Raises:
        MissingError: the file or a shard does not exist.
        InputError: the file holds no weights, or would run code.
    """
    if path.is_dir():
        path = _index_in(path)
    if not path.is_file():
        raise MissingError(f"no checkpoint at {str(path)!r}")
    if path.name.endswith(INDEX):
        return _load_shards(path)
    if SHARD.search(path.name):
        raise InputError(
            f"checkpoint {str(path)!r} is one shard of several; give the folder of all shards with their index "
            f"(*{INDEX})"
        )
    return _load_file(path)


def dtypes_in(path: Path) -> dict[str, str]:
    """Return the type of each tensor in one file, by dotted name and as the format names it, without its values.

    Raises:
        InputError: the file is not readable.
    """
    if not is_safetensors(path):
        parts = _sets_in(_load_torch(path, "meta"))
        return {prefix + name: str(each.dtype) for prefix, tensors in parts for name, each in tensors.items()}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"checkpoint {str(path)!r} is not a readable safetensors file: {error}") from error


def _index_in(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{INDEX}"))
    if not found:
        parts = any(folder.glob("*.distcp"))
        what = "of a distributed checkpoint; put it together with torch's format_utils dcp_to_torch" if parts else ""
        raise InputError(
            f"checkpoint {str(folder)!r} is a folder {what or f'without an index of shards (*{INDEX}); name a file'}"
        )
    return found[0]


def _load_shards(index: Path) -> Checkpoint:
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        named_here = all(name == Path(name).name for name in shards)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        named_here = False
    if not named_here:
        raise InputError(
            f"checkpoint {str(index)!r} is not an index of shards: expected a weight_map from names to files beside it"
        )
    gone = sorted(name for name in shards if not (index.parent / name).is_file())
    if gone:
        raise MissingError(
            f"{len(gone)} of the {len(shards)} shards of checkpoint {str(index)!r} are not beside it, such as "
            f"{gone[0]!r}"
        )
    parts = [_load_file(index.parent / name) for name in sorted(shards)]
    weights = {name: tensor for part in parts for name, tensor in part.weights.items()}
    sets = tuple(dict.fromkeys(prefix for part in parts for prefix in part.sets))
    return Checkpoint(index, weights, sets, {key: value for part in parts for key, value in part.metadata.items()})


def _load_file(path: Path) -> Checkpoint:
    """Read one file. Its content decides its kind, since users rename files."""
    if kind := foreign_kind(path):
        raise InputError(f"checkpoint {str(path)!r} is {kind}")
    if is_safetensors(path):
        content, metadata = _load_safetensors(path)
    else:
        content, metadata = _load_torch(path), {}
    weights: dict[str, Tensor] = {}
    sets = []
    for prefix, tensors in _sets_in(content):
        sets.append(prefix)
        weights |= {prefix + name: tensor for name, tensor in tensors.items()}
    if not weights:
        raise InputError(f"checkpoint {str(path)!r} holds no weights: no dictionary in it has names of tensors")
    return Checkpoint(path, weights, tuple(sets), metadata)


def _sets_in(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the prefix and the tensors of each dictionary that holds tensors."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield prefix, tensors
    for key, value in content.items():
        if str(key) not in OPTIMIZERS:
            yield from _sets_in(value, f"{prefix}{key}.", depth + 1)


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, MemoryError) as error:
        fault = safetensors_fault(path)
        raise InputError(
            f"checkpoint {str(path)!r} is not a readable safetensors file: "
            + (f"{fault}; copy or download it again" if fault else f"{_first_line(str(error))}")
        ) from error


def _load_torch(path: Path, device: str = "cpu") -> Any:
    # The unpickler can raise any exception for a damaged file.
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # of sparse and quantized tensors, which are refused by name
            return torch.load(file, map_location=device, weights_only=True)  # a file object: torch would trust the name
    except Exception as error:
        reason = str(error.__context__ or error)  # torch wraps the unpickler's error in advice to run the code
        if code := re.search(r"GLOBAL (\S+)", reason):
            raise InputError(
                f"checkpoint {str(path)!r} holds {code[1]!r}, which only code in the file can create, and no code is "
                "run; save its state_dict alone, best as safetensors"
            ) from error
        shown = "not in torch's format" if "weights_only" in reason else f"{type(error).__name__} {_first_line(reason)}"
        raise InputError(
            f"checkpoint {str(path)!r} is not a readable torch file: {shown.strip()}; copy or download it again if "
            "it was cut short"
        ) from error


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
