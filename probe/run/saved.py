"""Trained heads as files: the weights, and all that is needed to build the head again, alone or behind its backbone.

A file holds a digest of its name, of what it says and of its weights: one that has changed on the disk, or has the name
of another, gives no predictions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ...errors import InputError, MissingError, unknown_name
from ...store import Store
from ...store.checked import Count, Width, read
from ...store.durable import write_durably
from ..batches.layer_set import LayerSet
from ..batches.token_shape import TokenShape
from ..heads import Head, build_pooling, find_pooling
from ..heads.own import names_code
from .digest import value_digest
from .files import damaged
from .results import Run

FOLDER, SUFFIX = "heads", ".safetensors"
KEY, DIGEST = "tokenprobe", "digest"
"""Of the file's metadata, and within it. One key: safetensors writes several in no fixed order."""
BACKBONE = (
    *("model", "model_arg", "checkpoint", "checkpoint_key", "checkpoint_grid", "allow_missing"),
    *("no_pretrained", "seed", "image_size"),
)
"""Settings of an extraction that decide which backbone ran, with which weights."""


@dataclass(frozen=True)
class SavedHead:
    """What a file says of its head.

    Attributes:
        head: name of the pooling.
        settings: of the pooling.
        dim: width of the tokens it reads.
        grid: (height, width) of the patch tokens.
        classes: names, by logit.
        multi_label: whether an image may be of several classes.
        logits: whether it gives those of a softmax, or of sigmoids; ridge regression estimates labels of 0 and 1.
        tokens: arrays that it reads, joined along the token axis.
        layers: indices; the channels of several are joined, or their tokens stacked.
        norm: kind, eps, weight and bias of the final norm that every token goes through first, or None.
        model: of the store it was trained from.
        weights: the hash of that backbone's weights.
        transform: of the images.
        backbone: settings of `BACKBONE`, as far as they are known, that give the backbone again.
        stacked: whether the tokens of several layers stand side by side; if not, their channels are joined.
    """

    head: str
    settings: dict[str, Any]
    dim: Width
    grid: tuple[Width, Width]
    classes: list[str]
    multi_label: bool
    logits: bool
    tokens: list[str]
    layers: list[Count]
    norm: dict[str, Any] | None
    model: str
    weights: str
    transform: dict[str, Any]
    backbone: dict[str, Any]
    stacked: bool = False

    @property
    def layer_set(self) -> LayerSet:
        """The layers that the head reads."""
        return LayerSet(tuple(self.layers), self.stacked)

    def build(self, state: Mapping[str, Tensor]) -> Head:
        """Return the head with its trained weights, in evaluation mode.

        Raises:
            Exception: of any kind, where they do not fit together.
        """
        n_classes, width = state["weight"].shape
        shape = TokenShape(self.grid, self.dim, 0, n_layers=self.layer_set.n_stacked).of_pooling
        expected = len(self.classes), build_pooling(self.head, draw=False, **shape, **self.settings).out_dim
        if (n_classes, width) != expected:
            raise ValueError(f"weights for {n_classes} classes and {width} features; its settings say {expected}")
        head = Head(build_pooling(self.head, **shape, **self.settings), n_classes)
        head.load_state_dict({name: value[None] for name, value in state.items()})
        return head.eval()


def backbone_settings(store: Store) -> dict[str, Any]:
    """Return what is known of how a store's backbone is loaded: its journal knows all, its manifest the model."""
    recipe, recorded = store.manifest.recipe, store.recorded_settings
    known = {"model": recipe.model, "model_arg": recipe.model_args} | recorded
    return {name: known[name] for name in BACKBONE if name in known}


def write_head(run: Path, cell: str, state: Mapping[str, Tensor], about: SavedHead) -> None:
    """Write the weights of a cell's head into a run folder."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    values = asdict(about)
    said = values | {DIGEST: value_digest([cell, values, state])}
    write_durably(folder / f"{cell}{SUFFIX}", save(dict(state), metadata={KEY: json.dumps(said)}))


def saved_cells(run: Path) -> Sequence[str]:
    """Return the cells of a run that have a head.

    Raises:
        MissingError: no such run.
    """
    if not (run / FOLDER).is_dir():
        raise MissingError(
            f"no trained heads in {str(run / FOLDER)!r}; make a run with probe fit, of another head than knn, which "
            "has no weights"
        )
    return sorted(file.name.removesuffix(SUFFIX) for file in (run / FOLDER).glob(f"*{SUFFIX}"))


def load_saved(run: str | Path, cell: str, *, trust_code: bool = False) -> tuple[Head, SavedHead]:
    """Load a trained head, as `load_head` does, and what its file says of it."""
    known = saved_cells(Path(run))
    if cell not in known:
        if cell in Run(Path(run)).finished:
            raise InputError(
                f"cell {cell!r} of {str(run)!r} has no weights: knn has none, and no cell that diverged at once has any"
            )
        raise unknown_name(f"cell of {str(run)!r}", cell, known)
    path = Path(run) / FOLDER / f"{cell}{SUFFIX}"
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get(KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = values.pop(DIGEST, None)
        about: SavedHead = read(SavedHead, values, "")
        if digest != value_digest([cell, values, state]):
            raise ValueError("its name, settings or weights are not those that were written")
    except Exception as error:  # damaged bytes fail in any way
        raise damaged(path, error) from error
    if names_code(about.head):
        find_pooling(about.head, imports=trust_code)
    try:
        return about.build(state), about
    except Exception as error:  # damaged bytes fail in any way
        raise damaged(path, error) from error


def load_head(run: str | Path, cell: str, *, trust_code: bool = False) -> Head:
    """Load a trained head.

    Args:
        run: a run folder.
        cell: name of the cell, from the results' column `cell`.
        trust_code: whether to import a pooling's module that the head names, MODULE:CLASS.

    Returns:
        A module in evaluation mode: tokens (B, N, dim), the arrays of the results' column `tokens` joined along
        the token axis (and normed, if the run's `norm` is "final"), to logits (B, classes).

    Raises:
        MissingError: no such run.
        InputError: no such cell, one that has no weights, or its pooling is not known here.
        RunError: a file that is damaged or of another version.
    """
    return load_saved(run, cell, trust_code=trust_code)[0]
