"""The images whose attention maps are drawn, and the tokens that a head reads of them.

Tokens come from the store that the head was trained from, and pixels from its data. Or both come from image files,
through the backbone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, MissingError, TokenprobeError
from ..extract import ExtractConfig
from ..extract.datasets import ImageSource, without_download
from ..extract.datasets.loose_images import SPLIT, LooseImages
from ..extract.decoded import BadImage
from ..extract.loaded import open_source
from ..extract.loading import RowImages
from ..extract.rows import SplitRows
from ..extract.views import normalise
from ..probe.batches.norm import FinalNorm, is_derived
from ..probe.batches.token_shape import CLS, stored_kind
from ..probe.run.saved import SavedHead
from ..store import Store
from ..store.layout import MEAN, PATCH, PREFIX
from ..store.reader import Split
from .probed_model import ProbedModel, transform_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attended:
    """Images, B of them, and the tokens that a head reads of them.

    Attributes:
        ids: keys, or paths below a folder.
        labels: class names, joined by "|" if an image has several; empty where they are unknown.
        tokens: (B, N, D) float32.
        pixels: (B, height, width, 3) uint8, as the backbone saw them; None if they cannot be read again.
        similarity: (B, patches) float64, the cosine of the class token and each patch token, the mean over layers; None
            without a class token.
    """

    ids: Sequence[str]
    labels: Sequence[str]
    tokens: Tensor
    pixels: NDArray[np.uint8] | None
    similarity: NDArray[np.float64] | None


def from_store(split: Split, about: SavedHead, n_images: int) -> Attended:
    """Read images of a split, chosen by `spread_rows`, and their tokens."""
    rows = spread_rows(split.labels, n_images)
    outputs = [(_raw(split, layer, rows, PREFIX), _raw(split, layer, rows, PATCH)) for layer in about.layer_set]
    return Attended(
        [split.ids[row] for row in rows],
        [_label(split, row) for row in rows],
        stored_tokens(split, about, rows),
        _stored_pixels(split, about, rows),
        class_token_similarity(outputs, split.store.manifest.recipe.prefix_names),
    )


def from_images(model: ProbedModel, path: str, n_images: int) -> Attended:
    """Read the first image files at a path, and run the backbone on them.

    Raises:
        InputError: an image cannot be read.
        MissingError: nothing at the path.
    """
    source = LooseImages(path)
    listed = source.images(SPLIT)
    n = min(n_images, len(listed.ids))
    rows = SplitRows(np.arange(n), listed.labels[:n], list(listed.ids[:n]))
    pixels = _decoded(source, SPLIT, rows, model.about)
    device = next(model.parameters()).device
    with torch.inference_mode():
        outputs = model.forward_layers(normalise(pixels.to(device), model.transform))
        tokens = model.join_outputs(outputs).float().cpu()
    pairs = [(each.prefix, each.patch) for each in outputs]
    similarity = class_token_similarity(pairs, model.prefix_names)
    return Attended(rows.ids, [""] * n, tokens, _as_images(pixels), similarity)


def stored_tokens(split: Split, about: SavedHead, rows: NDArray[np.int64]) -> Tensor:
    """Return the tokens (rows, N, D) that a head reads, float32, as training reads them."""
    norm = None if about.norm is None else FinalNorm.from_json(about.norm)
    layers = about.layer_set
    arrays = [
        layers.put_together([_array(split, layer, rows, kind, norm) for layer in layers]) for kind in about.tokens
    ]
    return torch.cat(arrays, dim=1)


def spread_rows(labels: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Return rows of as many classes as possible, sorted by class: the first of each class, then the second, and so on.

    If images have several classes, they are the first rows.
    """
    if labels.ndim > 1:
        return np.arange(min(n_rows, len(labels)))
    turn, seen = np.empty(len(labels), dtype=np.int64), dict[int, int]()
    for row, label in enumerate(labels.tolist()):
        turn[row] = seen[label] = seen.get(label, -1) + 1
    chosen = np.argsort(turn, kind="stable")[:n_rows]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def class_token_similarity(
    layers: Sequence[tuple[Tensor | None, Tensor | None]], prefix_names: Sequence[str]
) -> NDArray[np.float64] | None:
    """Return the cosine (B, patches) of the class token and each patch token, the mean over layers.

    Args:
        layers: prefix tokens (B, P, D) and patch tokens (B, N, D) of each layer; None where there are none.
        prefix_names: names of the prefix tokens.

    Returns:
        None without class tokens or patch tokens.
    """
    found = []
    for prefix, patch in layers:
        if prefix is None or patch is None or CLS not in prefix_names:
            return None
        place = list(prefix_names).index(CLS)
        found.append(F.cosine_similarity(prefix[:, [place]].double(), patch.double(), dim=-1).cpu().numpy())
    similarity: NDArray[np.float64] = np.mean(found, axis=0)
    return similarity


def _array(split: Split, layer: int, rows: NDArray[np.int64], kind: str, norm: FinalNorm | None) -> Tensor:
    """Return one array of a layer (rows, n, D), float32, normed if the head reads normed tokens."""
    derived = is_derived(kind, normed=norm is not None)
    stored = PATCH if derived else stored_kind(kind)
    tokens = torch.from_numpy(split.tokens(layer, rows, kind=stored, dtype=np.float32))
    normed = tokens if norm is None else norm(tokens)
    if kind == CLS:
        return normed[:, :1]
    if kind == MEAN:
        return normed.mean(1, keepdim=True) if derived else normed[:, None]
    return normed


def _raw(split: Split, layer: int, rows: NDArray[np.int64], kind: str) -> Tensor | None:
    if not split.has(layer, kind):
        return None
    return torch.from_numpy(split.tokens(layer, rows, kind=kind, dtype=np.float32))


def _label(split: Split, row: int) -> str:
    label = split.labels[row]
    shown = [label] if label.ndim == 0 else np.flatnonzero(label)
    return "|".join(split.classes[each] for each in shown)


def _stored_pixels(split: Split, about: SavedHead, rows: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """Read the images of rows from the data of the store, if they are on this machine, or warn and return None."""
    try:
        source = _source_of(split.store)
        listed = {key: place for place, key in enumerate(source.images(split.name).ids)}
        ids = [split.ids[row] for row in rows]
        gone = [key for key in ids if key not in listed]
        if gone:
            raise InputError(f"{source.spec!r} has no image {gone[0]!r} in its split {split.name!r}")
        of_rows = SplitRows(np.array([listed[key] for key in ids]), split.labels[rows], ids)
        return _as_images(_decoded(source, split.name, of_rows, about))
    except TokenprobeError as error:
        logger.warning(f"maps are drawn without images: {error}; put the data back, or give --images")
        return None


def _source_of(store: Store) -> ImageSource:
    if not store.recorded_settings:
        raise MissingError(f"no journal of {str(store.path)!r} says which images it was made from")
    try:
        config = ExtractConfig(**store.recorded_settings)
    except TypeError as error:
        raise InputError(f"the journal of {str(store.path)!r} records no usable settings") from error
    return open_source(replace(config, data=without_download(config.data)))


def _decoded(source: ImageSource, split: str, rows: SplitRows, about: SavedHead) -> Tensor:
    """Return (n, 3, height, width) uint8."""
    images, found = RowImages(source, {split: rows}, transform_of(about)), list[Tensor]()
    for row in range(len(rows)):
        pixels = images.pixels(split, row, 0)
        if isinstance(pixels, BadImage):
            raise InputError(f"cannot read image {pixels.id!r} of {source.spec!r} ({pixels.reason}); leave it out")
        found.append(pixels)
    return torch.stack(found)


def _as_images(pixels: Tensor) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).numpy()
    return images
