"""A frozen backbone and a trained head, composed into one module."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingError
from ..extract.backbones import Backbone, ModuleBackbone, code_of, load_backbone
from ..extract.forward import Outputs
from ..extract.views import Transform
from ..probe.batches.norm import FinalNorm
from ..probe.batches.token_shape import CLS, stored_kind
from ..probe.heads import Head
from ..probe.run.saved import SavedHead, load_saved
from ..store.layout import EMBEDDING, MEAN, PREFIX
from .config import AttendConfig, PredictConfig
from .trust import check_code


class ProbedModel(nn.Module):
    """Normalised images to logits, through a frozen backbone and a trained head.

    It has the attributes that timm's tools need: `num_classes`, `pretrained_cfg`, `forward_features` and
    `forward_head`. So the transform of its images is
    `timm.data.create_transform(**timm.data.resolve_data_config(model=model))`.

    Attributes:
        backbone: the backbone's own module, in evaluation mode; no parameter requires a gradient.
        head: the trained head.
        norm: the final norm between them, or None.
        transform: of the images.
        prefix_names: names of the backbone's prefix tokens.
        about: the backbone, layers, tokens and classes that the head was trained with.
        num_classes: number of logits.
        pretrained_cfg: transform and class names ("label_names"), in timm's words.
    """

    def __init__(self, backbone: Backbone, head: Head, about: SavedHead) -> None:
        """Compose a backbone and a head that fit together; `export_pipeline` loads them."""
        super().__init__()
        self.backbone, self.head = backbone.module, head
        self.norm = None if about.norm is None else FinalNorm.from_json(about.norm)
        self.transform, self.about = transform_of(about), about
        self._tokens, self._layers = backbone, about.layer_set
        self.prefix_names = tuple(backbone.prefix_names)
        self.num_classes = len(about.classes)
        self.pretrained_cfg = _timm_config(self.transform) | {
            "num_classes": self.num_classes,
            "label_names": about.classes,
        }
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the head. The backbone stays in evaluation mode, which keeps its statistics frozen."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of normalised images (B, 3, height, width)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the tokens (B, N, dim) that the head reads."""
        return self.join_outputs(self.forward_layers(images))

    def forward_layers(self, images: Tensor) -> list[Outputs]:
        """Return the tokens of each layer that the head reads, as the backbone gives them."""
        found, embedding = self._tokens.tokens_and_embedding(images, list(self._layers))
        return [Outputs(*found[layer], embedding) for layer in self._layers]

    def join_outputs(self, outputs: Sequence[Outputs]) -> Tensor:
        """Return the tokens (B, N, dim) that the head reads, from those of `forward_layers`."""
        arrays = [
            self._layers.put_together([self._array(kind, each) for each in outputs]) for kind in self.about.tokens
        ]
        return torch.cat(arrays, dim=1)

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Return logits (B, classes) of the tokens from `forward_features`."""
        logits: Tensor = self.head(tokens)
        return logits

    def _array(self, kind: str, outputs: Outputs) -> Tensor:
        """Return one array of a layer, (B, N, dim), as the head would read it from a store, but without rounding."""
        if kind == EMBEDDING:  # computed after the norm
            assert outputs.embedding is not None
            return outputs.embedding[:, None]
        tokens = outputs.prefix if stored_kind(kind) == PREFIX else outputs.patch
        assert tokens is not None, kind
        normed = tokens if self.norm is None else self.norm(tokens)
        if kind == CLS:
            return normed[:, :1]
        return normed.float().mean(1, keepdim=True) if kind == MEAN else normed


def export_pipeline(
    run: str | Path,
    cell: str | None = None,
    *,
    model: str | Backbone | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    trust_code: bool = False,
) -> ProbedModel:
    """Compose a cell's head and the backbone of its tokens into one module.

    The store is not needed. The module can be saved by `torch.save`, exported by `torch.export.export`, or used like a
    timm model. Its tokens are not rounded to the store's dtype.

    Args:
        run: a run folder; or one head, as `load_head` takes it.
        cell: name of the cell of a run, from the results' column `cell`.
        model: the backbone, if it is a local folder that has moved, or the `ModuleBackbone` of a module of your own.
        checkpoint: the backbone's weights, if they have moved.
        checkpoint_key: key of the weights in the checkpoint, if it has changed.
        trust_code: whether to run code that the head names, from a torch.hub repository, beside a transformers model or
            of a pooling MODULE:CLASS. torch.hub code and a function of `model` always run.

    Returns:
        A module in evaluation mode on the CPU.

    Raises:
        InputError: no such cell, a cell without weights, another backbone than in training, or code that is not
            trusted.
        MissingError: no such run, or the weights are gone; the message names the path.
    """
    head, about = load_saved(run, cell, trust_code=trust_code)
    name = cell or str(run)
    moved = {"model": model, "checkpoint": checkpoint, "checkpoint_key": checkpoint_key}
    settings = about.backbone | {name: value for name, value in moved.items() if value is not None}
    _check_trusted(settings, name, trust_code, named=model is not None)
    try:
        backbone = load_backbone(**settings)
    except (InputError, MissingError) as error:
        moved_away = isinstance(error, MissingError)
        advice = "; if it has moved, give --model or --checkpoint" if moved_away else _if_unknown(about)
        raise type(error)(f"the backbone of {name!r} is {about.model!r}: {error}{advice}") from error
    found = backbone.weights_hash()
    if found != about.weights:
        raise InputError(
            f"{name!r} was trained on tokens of {about.model!r} with weights {about.weights[:12]}…, but the weights "
            f"loaded now are {found[:12]}…; {_advice(backbone)}{_if_unknown(about)}"
        )
    return ProbedModel(backbone, head, about)


def configured_pipeline(run: str | Path, cell: str | None, config: PredictConfig | AttendConfig) -> ProbedModel:
    """Compose a cell's head and its backbone, as the settings of a command say; see `export_pipeline`."""
    return export_pipeline(
        run,
        cell,
        model=config.model,
        checkpoint=config.checkpoint,
        checkpoint_key=config.checkpoint_key,
        trust_code=config.trust_code,
    )


def _check_trusted(settings: Mapping[str, Any], name: str, trust_code: bool, *, named: bool) -> None:
    """Refuse code that only the head names. A model that the user names is trusted, and so is a given object."""
    model = settings["model"]
    if not isinstance(model, str):
        return
    asks_by_name = bool(code_of(model, {}))  # else the head's arguments ask for the code
    check_code(
        model,
        settings.get("model_arg", {}),
        f"the head of {name!r}",
        trust_code or (asks_by_name and named),
        ", or name it with --model" if asks_by_name else "",
    )


def _advice(backbone: Backbone) -> str:
    """Return what to do about other weights than in training."""
    if isinstance(backbone, ModuleBackbone):
        return "give the module with the weights, class, blocks, prefix_names and norm of its extraction"
    return "give the --checkpoint and --checkpoint-key of its probe extract"


def _if_unknown(about: SavedHead) -> str:
    """Return a warning that some settings of the backbone are unknown, or "" if all are known."""
    if "image_size" in about.backbone:
        return ""
    return "; the head's store had no journal, so the file, size and seed of its backbone are unknown"


def transform_of(about: SavedHead) -> Transform:
    """Return the transform of the images that a head was trained on."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in about.transform.items()
    }
    return Transform(**values)


def _timm_config(transform: Transform) -> dict[str, Any]:
    """Return a transform in timm's terms. timm cannot resize only if sizes differ; squashing to a size does that."""
    config = asdict(transform) | {"input_size": (3, *transform.input_size)}
    for of_the_file in ("upright", "decode"):  # about decoding, which timm's transform does not do
        del config[of_the_file]
    return config | ({"crop_mode": "squash", "crop_pct": 1.0} if transform.crop_mode == "none" else {})
