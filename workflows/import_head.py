"""`probe heads import`: a head of the reference implementation of arXiv 2506.10178 becomes a head of tokenprobe.

The file holds weights alone. Their names and shapes tell the pooling. Backbone, layer and classes are given.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingError
from ..extract.backbones import Backbone, absolute_model, load_backbone
from ..extract.backbones.weights.files import load_checkpoint
from ..extract.backbones.weights.kinds import SAVE_AS_FLOATS, fault_of
from ..probe.batches.norm import FinalNorm
from ..probe.batches.token_shape import CLS, TokenShape
from ..probe.grid.specs import HeadSpec, parse_heads
from ..probe.heads import find_pooling
from ..probe.heads.head import Head
from ..probe.heads.published import PublishedHead, build_published, find_published, recognise
from ..probe.run.saved import BACKBONE, SavedHead
from ..store.layout import PREFIX
from .config import ImportHeadConfig
from .head_card import head_card
from .share_heads import check_head_folder, without_paths, write_folder

logger = logging.getLogger(__name__)


def import_head(file: str | Path, config: ImportHeadConfig) -> Path:
    """Write a head of the reference implementation, with a model card, into a new folder.

    No code in the file is run.

    Args:
        file: a state_dict of Sequential(pooling, BatchNorm1d, Linear), as torch or safetensors file. The dictionary may
            be inside others, such as {"state_dict": …} and {"model": …}.
        config: the backbone, the layer, the classes, and the folder.

    Returns:
        The path of the new folder: `load_head` and `probe predict` take it.

    Raises:
        TokenprobeError: the file is no such head, or it does not fit the backbone; the message says what was found.
    """
    out = check_head_folder(config.out)
    weights = load_checkpoint(Path(file)).weights
    try:
        found = find_published(weights)
    except InputError as error:
        raise InputError(f"{str(file)!r}: {error}") from error
    for name, tensor in {**found.pooling, **found.norm, **found.linear}.items():
        if fault := fault_of(tensor, None):
            raise InputError(f"{str(file)!r}: {name!r} is {fault}; {SAVE_AS_FLOATS}")
    classes = _classes(config.classes, found.n_classes)
    settings = {name: getattr(config, name) for name in BACKBONE if hasattr(config, name)}
    backbone = load_backbone(**settings)
    layer = _layer(config.layer, backbone)
    head, about = _build(found, str(file), backbone, layer, config)
    about = without_paths(replace(about, classes=classes, backbone=settings | {"model": absolute_model(config.model)}))
    write_folder(out, head, about, head_card(about, head.n_params(), None, [], config.license))
    logger.info(f"{about.head} on layer {layer} of {about.model}, {len(classes)} classes -> {out}")
    return out


def _build(
    found: PublishedHead, file: str, backbone: Backbone, layer: int, config: ImportHeadConfig
) -> tuple[Head, SavedHead]:
    """Return the head, and what its file says but for classes and settings of the backbone."""
    of_layer = backbone.shapes[layer]
    width = of_layer.dim
    shape = TokenShape(of_layer.grid, of_layer.dim, of_layer.n_prefix, of_layer.embedding)
    try:
        spec = _spec(found, shape, config.head)
        shape = spec.input_shape(shape)
        if not shape.dim:
            raise InputError(f"{spec.label} reads an embedding, which the backbone does not have there")
        head = build_published(found, spec.name, dict(spec.settings), shape.dim, shape.grid)
    except InputError as error:
        raise InputError(
            f"{file!r} does not fit layer {layer} of {backbone.name!r}, whose tokens are {width} wide: {error}"
        ) from error
    tokens = list(head.pooling.inputs)
    if {CLS, PREFIX} & {*tokens} and not shape.n_prefix:
        raise InputError(
            f"{spec.label} reads a class token, and {backbone.name!r} has none; name another head with --head, such as "
            "linear:pool=mean"
        )
    return head, SavedHead(
        head=spec.name,
        settings=dict(spec.settings),
        dim=shape.dim,
        grid=shape.grid,
        classes=[],
        multi_label=False,
        logits=True,
        tokens=tokens,
        layers=[layer],
        norm=_norm(config.norm, backbone, layer, shape.dim),
        model=backbone.name,
        weights=backbone.weights_hash(),
        transform=backbone.transform.to_json(),
        backbone={},
    )


def _spec(found: PublishedHead, shape: TokenShape, asked: str | None) -> HeadSpec:
    if asked is None:
        name, settings = recognise(found, shape.dim)
        spec = HeadSpec(name, tuple({**find_pooling(name).defaults, **settings}.items()))
        logger.info(f"recognised {spec.label}; if it is another, name it with --head")
        return spec
    specs = parse_heads([asked])
    if len(specs) > 1 or specs[0].solved:
        raise InputError(f"--head {asked!r} must name one pooling, such as aim:heads=12")
    return specs[0]


def _layer(asked: int, backbone: Backbone) -> int:
    depth = len(backbone.shapes)
    if not -depth <= asked < depth:
        raise InputError(f"{backbone.name!r} has no layer {asked}; give --layer 0 to {depth - 1}, or -1 for the last")
    return asked % depth


def _norm(asked: str, backbone: Backbone, layer: int, dim: int) -> dict[str, Any] | None:
    if asked == "none":
        return None
    kept = backbone.final_norm()
    if kept is None:
        raise InputError(f"{backbone.name!r} has no final norm; give --norm none")
    FinalNorm.from_json(kept).check(layer, dim)
    return kept


def _classes(path: str | Path | None, n_classes: int) -> list[str]:
    """Return the names in a file, one per line; or the indices."""
    if path is None:
        return [str(index) for index in range(n_classes)]
    try:
        names = Path(path).read_text().splitlines()
    except FileNotFoundError:
        raise MissingError(f"no file of classes at {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the classes in {str(path)!r} ({error})") from error
    if len(names) != n_classes:
        raise InputError(
            f"{str(path)!r} has {len(names)} lines, and the head {n_classes} classes; give one name per line"
        )
    return names
