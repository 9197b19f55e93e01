"""Trained heads as files: the weights, and all that is needed to build the head again, alone or behind its backbone.

A file holds a digest of its name, of what it says and of its weights: one that has changed on the disk, or has the name
of another, gives no predictions. A head that is handed on has no cell, so its file may have any name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
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
SHARED = "head"
"""Name of a head that is handed on: the folder that `probe heads export` makes has a file head.safetensors."""
HUB = "hf:"
"""Prefix of the name of a head on the Hugging Face hub."""
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
        with torch.device("meta"):  # a hostile file may ask for more memory than there is
            empty = Head(build_pooling(self.head, **shape, **self.settings), n_classes).state_dict()
        if {name: value[0].shape for name, value in empty.items()} != {name: state[name].shape for name in state}:
            raise ValueError("its weights have other names or shapes than its settings say")
        for name, value in state.items():
            if value.dtype != empty[name].dtype:  # torch would cast it silently, even a complex one
                raise ValueError(f"{name!r} is of type {value.dtype}, and expected of type {empty[name].dtype}")
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
    write_file(folder / f"{cell}{SUFFIX}", state, about)


def write_file(path: Path, state: Mapping[str, Tensor], about: SavedHead) -> None:
    """Write the weights of a head into a file."""
    values = asdict(about)
    said = values | {DIGEST: value_digest([path.name.removesuffix(SUFFIX), values, state])}
    write_durably(path, save(dict(state), metadata={KEY: json.dumps(said)}))


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


def is_shared(place: str | Path) -> bool:
    """Return whether a place is one head, and not a run: a file, a folder of `probe heads export`, or hf:ORG/NAME."""
    return str(place).startswith(HUB) or Path(place).is_file() or (Path(place) / f"{SHARED}{SUFFIX}").is_file()


def load_saved(place: str | Path, cell: str | None = None, *, trust_code: bool = False) -> tuple[Head, SavedHead]:
    """Load a trained head, as `load_head` does, and what its file says of it."""
    if is_shared(place):
        if cell is not None:
            raise InputError(f"{str(place)!r} is one head, and the cell {cell!r} was asked for; leave out the cell")
        return load_file(_shared_file(place), trust_code=trust_code)
    known = saved_cells(Path(place))
    if cell is None:
        raise InputError(
            f"{str(place)!r} is a run of {len(known)} heads; name a cell, from the column cell of its results.csv"
        )
    if cell not in known:
        if cell in Run(Path(place)).finished:
            raise InputError(
                f"cell {cell!r} of {str(place)!r} has no weights: knn has none, and no cell that diverged at once has "
                "any"
            )
        raise unknown_name(f"cell of {str(place)!r}", cell, known)
    return load_file(Path(place) / FOLDER / f"{cell}{SUFFIX}", names=[cell], trust_code=trust_code)


def load_file(path: Path, *, names: Sequence[str] = (), trust_code: bool = False) -> tuple[Head, SavedHead]:
    """Load a head from its file.

    Args:
        path: of the file.
        names: that the head may have been written under; by default that of the file, or any if it is handed on.
        trust_code: as for `load_head`.

    Raises:
        InputError: its pooling is not known here.
        RunError: the file is damaged, of another version, or has the name of another head.
    """
    names = names or [path.name.removesuffix(SUFFIX), SHARED]
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads((file.metadata() or {}).get(KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = values.pop(DIGEST, None)
        about: SavedHead = read(SavedHead, values, "")
        if digest not in [value_digest([name, values, state]) for name in names]:
            raise ValueError("its name, settings or weights are not those that were written")
    except Exception as error:  # damaged bytes fail in any way
        raise damaged(path, error) from error
    if names_code(about.head):
        find_pooling(about.head, imports=trust_code)
    try:
        return about.build(state), about
    except Exception as error:  # damaged bytes fail in any way
        raise damaged(path, error) from error


def load_head(run: str | Path, cell: str | None = None, *, trust_code: bool = False) -> Head:
    """Load a trained head.

    Args:
        run: a run folder; or, without a cell, one head: a file, a folder of `probe heads export`, or "hf:ORG/NAME" of
            the Hugging Face hub, with "@REVISION" if a branch, tag or commit is wanted.
        cell: name of the cell, from the results' column `cell`.
        trust_code: whether to import a pooling's module that the head names, MODULE:CLASS. No other code is ever run.

    Returns:
        A module in evaluation mode: tokens (B, N, dim), the arrays of the results' column `tokens` joined along
        the token axis (and normed, if the run's `norm` is "final"), to logits (B, classes).

    Raises:
        MissingError: no such run, or the hub has no such head.
        InputError: no such cell, one that has no weights, or its pooling is not known here.
        RunError: a file that is damaged or of another version.
        HubError: the hub cannot be reached, or refuses.
    """
    return load_saved(run, cell, trust_code=trust_code)[0]


def _shared_file(place: str | Path) -> Path:
    if str(place).startswith(HUB):
        from .hub import download_head  # loads a client for HTTP, which fits do without

        return download_head(str(place).removeprefix(HUB), f"{SHARED}{SUFFIX}")
    path = Path(place)
    return path if path.is_file() else path / f"{SHARED}{SUFFIX}"
