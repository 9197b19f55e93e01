"""Weights from a file: safetensors, or a torch file read without running any code in it.

Training files keep a backbone beside much else: the MAE's decoder, DINO's student and heads, an optimizer. Only the
part whose names are the backbone's is loaded, whatever prefix a wrapper put before them.
"""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import InputError, MissingError, unknown_name

Weights = Mapping[str, Tensor]

WRAPPERS = ("model", "state_dict", "model_state", "teacher", "target_encoder", "encoder")
"""Keys under which published training files keep weights. Where a file also has their average, the average is meant."""

PREFIXES = ("module.", "model.", "backbone.", "encoder.", "base_encoder.", "teacher.", "visual.")
"""Prefixes that DistributedDataParallel and training code put before the backbone's own names, in any combination."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        path: of the file.
        weights: by name, as the file has them.
        wrapper: the keys that led to them, such as "teacher", or "".
        metadata: of a safetensors file.
    """

    path: Path
    weights: dict[str, Tensor]
    wrapper: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading a checkpoint.

    Attributes:
        n_loaded: weights of the backbone that were loaded.
        n_weights: weights that the backbone has.
        part: where in the file they were, such as "teacher: backbone.", or "".
        resampled: weights that were resampled to the backbone's grid.
        missing: weights that the file lacks and that were allowed to be missing.
        ignored: names in the file that the backbone has no place for.
    """

    n_loaded: int
    n_weights: int
    part: str
    resampled: Sequence[str]
    missing: Sequence[str]
    ignored: Sequence[str]

    def lines(self) -> list[str]:
        """Return the report in lines for people; an empty list of names has no line."""
        where = f" from {self.part!r}" if self.part else ""
        said = (
            ("resampled to the backbone's grid", self.resampled),
            ("missing, left as initialised", self.missing),
            ("no place in the backbone, ignored", self.ignored),
        )
        head = f"checkpoint: {self.n_loaded} of the backbone's {self.n_weights} weights loaded{where}"
        return [head, *(f"checkpoint: {len(names)} {what}: {_shown(names)}" for what, names in said if names)]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a file.

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
                return Checkpoint(path, *_weights_in(weights, path), file.metadata() or {})
        except SafetensorError as error:
            raise InputError(f"checkpoint {str(path)!r} is not a readable safetensors file: {error}") from error
    return Checkpoint(path, *_weights_in(_load_torch(path), path), {})


def load_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    allow_missing: Sequence[str] = (),
    convert: Callable[[Weights], Weights] = lambda weights: weights,
) -> LoadReport:
    """Load the backbone's part of a checkpoint; every weight of the module must be there, and finite.

    Args:
        module: the backbone.
        checkpoint: read by `load_checkpoint`.
        allow_missing: names of weights, or of submodules, that stay as they are if the checkpoint lacks them.
        convert: from the names and shapes of the checkpoint to those of the module.

    Raises:
        InputError: the module has a weight that the file lacks, or one of another shape; a name in `allow_missing` is
            none of the module's.
    """
    own = module.state_dict()
    unknown = next((name for name in allow_missing if not any(_is_of(weight, [name]) for weight in own)), None)
    if unknown is not None:
        raise unknown_name("weight to allow missing", unknown, own)
    prefix = _backbone_prefix(checkpoint, own)
    part = {n.removeprefix(prefix): tensor for n, tensor in checkpoint.weights.items() if n.startswith(prefix)}
    given = convert(part)
    found = {name: given[name] for name in own if name in given and bool(given[name].isfinite().all())}
    missing = [name for name in own if name not in found]
    _check(own, found, [name for name in missing if not _is_of(name, allow_missing)], given, checkpoint.path)
    module.load_state_dict(own | found)
    used = {_storage(tensor) for tensor in found.values()}
    return LoadReport(
        n_loaded=len(found),
        n_weights=len(own),
        part=": ".join(filter(None, (checkpoint.wrapper, prefix))),
        resampled=[name for name in found if name in part and part[name].shape != found[name].shape],
        missing=missing,
        ignored=[
            name
            for name, tensor in checkpoint.weights.items()
            if name.removeprefix(prefix) not in own and _storage(tensor) not in used
        ],
    )


def _backbone_prefix(checkpoint: Checkpoint, own: Collection[str]) -> str:
    """Return the prefix of the backbone's names: the one under which most of them are found."""
    weights, prefixes = checkpoint.weights, [""]
    for prefix in prefixes:  # grows on the way
        prefixes += [prefix + part for part in PREFIXES if any(name.startswith(prefix + part) for name in weights)]
    n_found = {prefix: sum(prefix + name in weights for name in own) for prefix in prefixes}
    best = max(prefixes, key=n_found.__getitem__)
    if not n_found[best]:  # names that a conversion will change
        return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in weights)][-1]
    equals = [prefix for prefix in prefixes if n_found[prefix] == n_found[best]]
    if len(equals) > 1:
        raise InputError(
            f"checkpoint {str(checkpoint.path)!r} has the backbone's weights more than once, under "
            f"{' and '.join(map(repr, equals))}; save those that are meant alone"
        )
    return best


def _check(own: Weights, found: Weights, lacking: Sequence[str], given: Weights, path: Path) -> None:
    if lacking:
        how = "has as not finite" if lacking[0] in given else "lacks"
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: it {how} {len(lacking)} of the backbone's {len(own)} weights, "
            f"such as {lacking[0]!r} (it has {', '.join(map(repr, list(given)[:3]))}, …); "
            "check --model and --model-arg, or name what may be missing with --allow-missing"
        )
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(tensor.shape)} there and "
                f"{tuple(own[name].shape)} in the backbone; check --model and --model-arg"
            )


def _is_of(name: str, allowed: Sequence[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def _storage(tensor: Tensor) -> int:
    """Identify a tensor whatever name or view a conversion gives it."""
    return tensor.untyped_storage().data_ptr()


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


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


def _weights_in(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Find the state dict in the content of a training file, and the keys that lead to it."""
    keys = []
    while isinstance(content, dict):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if key is None:
            break
        keys.append(key)
        content = content[key]
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not weights:
        raise InputError(f"checkpoint {str(path)!r} holds no weights: looked for tensors, also under {WRAPPERS}")
    return weights, ".".join(keys)


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
