"""Heads that the reference implementation of arXiv 2506.10178 saves, found in a state_dict and built here.

Such a head is Sequential(pooling, BatchNorm1d without weights, Linear): the names of its weights begin with "0.", "1."
and "2.". A linear probe lacks the pooling, so they begin with "0." and "1.". A prefix such as "model." may come first.

Names and shapes tell the pooling and most of its settings. They do not tell the number of attention heads, nor which
tokens it reads: these are the defaults of the implementation, unless a spec says otherwise.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from . import POOLINGS, build_pooling
from .head import Head

Weights = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]

CLASSIFIER = re.compile(r"(|.*\.)([12])\.weight")
NORM, LINEAR = ("running_mean", "running_var"), ("weight", "bias")
COUNTER = "num_batches_tracked"
"""A buffer of every BatchNorm, which its output does not depend on."""


@dataclass(frozen=True)
class PublishedHead:
    """The parts of a head, each with its weights by name.

    Attributes:
        pooling: under the names of the reference implementation; empty for a linear probe.
        norm: running_mean (O,) and running_var (O,).
        linear: weight (C, O) and bias (C,).
    """

    pooling: Weights
    norm: Weights
    linear: Weights

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return len(self.linear["weight"])


def find_published(weights: Weights) -> PublishedHead:
    """Return the only head among named weights.

    Raises:
        InputError: there is none, or there are several, or its BatchNorm or classifier is another.
    """
    found = [*_sequences(weights)]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'no'} heads with a pooling (0.*), the statistics of a BatchNorm1d (1.running_mean, "
            f"1.running_var) and a classifier (2.weight, 2.bias) among the names {_listed(weights)}"
        )
    [(prefix, place)] = found
    parts = [_behind(weights, f"{prefix}{part}.") for part in range(place + 1)]
    norm, linear = parts[-2], parts[-1]
    expected = {*NORM} | {COUNTER} & {*norm}
    if {*norm} != expected or {*linear} != {*LINEAR}:
        raise InputError(
            f"expected a BatchNorm1d without weights ({', '.join(NORM)}) and a classifier ({', '.join(LINEAR)}), found "
            f"{_listed(norm)} and {_listed(linear)}"
        )
    return PublishedHead(parts[0] if place == 2 else {}, {name: norm[name] for name in NORM}, linear)


def recognise(found: PublishedHead, dim: int) -> tuple[str, Settings]:
    """Return the pooling of a head, and the settings that its shapes tell.

    Args:
        found: the head.
        dim: width of the tokens.

    Raises:
        InputError: no pooling has these names; the message lists them.
    """
    if not found.pooling:
        return "linear", {"pool": "cls"}
    fitting = [name for name in SETTINGS if {*POOLINGS[name].reference_names} <= {*found.pooling}]
    if not fitting:
        raise InputError(
            f"no pooling of the reference implementation has the keys {_listed(found.pooling)}; known poolings: "
            f"{', '.join(SETTINGS)}"
        )
    name = max(
        fitting, key=lambda each: len(POOLINGS[each].reference_names)
    )  # the names of ep are some of those of aim
    try:
        return name, SETTINGS[name]({key: value.shape for key, value in found.pooling.items()}, dim)
    except (IndexError, KeyError, ZeroDivisionError) as error:
        raise InputError(
            f"the keys are those of {name}, but not their shapes: "
            + ", ".join(f"{key} {tuple(value.shape)}" for key, value in found.pooling.items())
        ) from error


def build_published(found: PublishedHead, name: str, settings: Settings, dim: int, grid: tuple[int, int]) -> Head:
    """Return a head with the weights of a published one, in evaluation mode.

    Args:
        found: the published head.
        name: of its pooling.
        settings: of its pooling.
        dim: width of the tokens.
        grid: (height, width) of the patch tokens.

    Raises:
        InputError: the weights do not fit the pooling and the tokens.
    """
    pooling = build_pooling(name, dim=dim, grid=grid, **settings)
    head = Head(pooling, found.n_classes)
    if found.pooling:
        pooling.load_reference(found.pooling)
    own = dict(head.named_parameters()) | dict(head.named_buffers())
    for key, value in {**found.norm, **found.linear}.items():
        if key not in own or value.shape != own[key].shape[1:]:
            expected = tuple(own[key].shape[1:]) if key in own else "none"
            raise InputError(
                f"{key!r} of the BatchNorm or the classifier is {tuple(value.shape)}, but {name} on tokens {dim} wide "
                f"needs {expected}"
            )
        with torch.no_grad():
            own[key][0].copy_(value)
    return head.eval()


def _sequences(weights: Weights) -> Iterator[tuple[str, int]]:
    """Yield the prefix of each head and the place of its classifier: 2, or 1 for a linear probe."""
    for name in weights:
        match = CLASSIFIER.fullmatch(name)
        if match:
            prefix, place = match[1], int(match[2])
            has_pooling = any(each.startswith(f"{prefix}0.") for each in weights)
            if has_pooling and all(f"{prefix}{place - 1}.{each}" in weights for each in NORM):
                yield prefix, place


def _behind(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _listed(names: Mapping[str, Any]) -> str:
    found = sorted(names)
    return ", ".join(map(repr, found[:12])) + (f", … ({len(found)} in all)" if len(found) > 12 else "") or "none"


def _none(shapes: Shapes, dim: int) -> Settings:
    return {}


def _mlp(name: str) -> Callable[[Shapes, int], Settings]:
    return lambda shapes, dim: {"mlp_ratio": shapes[f"{name}.weight"][0] // dim}


def _ep(shapes: Shapes, dim: int) -> Settings:
    return {"queries": shapes["cls_token"][-2], "d_out": dim // shapes["v.weight"][0]}


def _abmilp(shapes: Shapes, dim: int) -> Settings:
    return {
        "self_attention": "both" if "self_attn.qkv.weight" in shapes else "none",
        "depth": len([name for name in shapes if re.fullmatch(r"attention_predictor\.\d+\.weight", name)]),
        "cond": "pe" if "pos_embed" in shapes else "none",
    }


def _coca(shapes: Shapes, dim: int) -> Settings:
    return {"queries": shapes["img_queries"][-2], "heads": shapes["to_q.weight"][0] // 64}


def _jepa(shapes: Shapes, dim: int) -> Settings:
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return {"depth": 1 + len(blocks), "mlp_ratio": shapes["cross_attention_block.mlp.fc1.weight"][0] // dim}


SETTINGS: dict[str, Callable[[Shapes, int], Settings]] = {
    "ep": _ep,
    "abmilp": _abmilp,
    "simpool": _none,
    "esimpool": _none,
    "clip": _none,
    "siglip": _mlp("mlp.fc1"),
    "aim": _none,
    "cbam": _none,
    "coca": _coca,
    "cait": _mlp("blocks_token_only.0.mlp.fc1"),
    "dinovit": _mlp("dino_block.mlp.fc1"),
    "jepa": _jepa,
    "dolg": _none,
    "cae": _none,
}
"""The poolings of the reference implementation, each with the settings that the shapes of its weights tell."""
