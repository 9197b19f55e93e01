"""Loading of a file's weights into a backbone: selection, checks, and the report.

Training files hold more than a backbone: the MAE's decoder, DINO's student and heads. Only the part with the backbone's
names is loaded.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from torch import Tensor, nn

from ....errors import InputError, unknown_name
from .files import Checkpoint
from .kinds import SAVE_AS_FLOATS, fault_of, is_finite
from .position_tables import UNKNOWN, Grid, PositionTable, shape_in_words
from .sets import Choice, Weights, choose_weights

NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Reading:
    """Settings for reading a checkpoint. The attributes are fields of `ExtractConfig`.

    Attributes:
        allow_missing: weights or submodules that keep their values if the checkpoint lacks them.
        key: `checkpoint_key`: key in the file, or prefix of names, of the wanted weights; None to search.
        grid: `checkpoint_grid`: (height, width) in patches of its position tables; None to guess it from their size.
    """

    allow_missing: Sequence[str] = ()
    key: str | None = None
    grid: Grid | None = None


@dataclass(frozen=True)
class Converted:
    """Weights with a backbone's names and shapes.

    Attributes:
        weights: weights by name.
        tables: position tables that the conversion examined.
    """

    weights: Weights
    tables: Sequence[PositionTable] = ()


@dataclass(frozen=True)
class LoadReport:
    """The report on a loaded checkpoint.

    Attributes:
        n_loaded: number of the backbone's weights that were loaded.
        n_weights: number of the backbone's weights.
        part: prefix of these weights in the file, such as "teacher.backbone", or "".
        others: prefixes of other weights in the file that fit as well.
        tables: position tables, with their grids in the file and in the backbone.
        beyond: names in the file that belong to blocks beyond the backbone's last.
        missing: weights that the file lacks and `allow_missing` names.
        ignored: all other unused names in the file.
    """

    n_loaded: int
    n_weights: int
    part: str = ""
    others: Sequence[str] = ()
    tables: Sequence[PositionTable] = ()
    beyond: Sequence[str] = ()
    missing: Sequence[str] = ()
    ignored: Sequence[str] = ()

    @property
    def resampled(self) -> list[str]:
        """Names of the position tables whose values were changed."""
        return [table.name for table in self.tables if table.resampled]

    def lines(self) -> list[str]:
        """Return the report in lines for people, without empty entries."""
        where = f" from {self.part!r}" if self.part else ""
        lines = [f"{self.n_loaded} of the backbone's {self.n_weights} weights loaded{where}"]
        lines += [f"{other!r} fits as well; --checkpoint-key {other} selects it" for other in self.others if other]
        if self.beyond:
            lines.append(f"{len(self.beyond)} ignored, of blocks beyond the backbone's last: {_shown(self.beyond)}")
        lines += table_lines(self.tables)
        if self.missing:
            lines.append(f"{len(self.missing)} missing, left as initialised: {_shown(self.missing)}")
        if self.ignored:
            lines.append(f"{len(self.ignored)} ignored, not in the backbone: {_shown(self.ignored)}")
        return [f"checkpoint: {line}" for line in lines]


def table_lines(tables: Sequence[PositionTable]) -> list[str]:
    """Return one line per pair of grids about loaded position tables."""
    names: dict[tuple[str, str], list[str]] = {}
    for table in tables:
        names.setdefault((table.before, table.after), []).append(table.name)
    return [f"position table {_what_was_done(*grids)}: {_shown(each)}" for grids, each in names.items()]


def _what_was_done(before: str, after: str) -> str:
    if before != after:
        return f"of {before} resampled to {after}"
    if after == UNKNOWN:
        return f"of {after} loaded unchanged"
    return f"assumed to have the backbone's grid, {after} (if it has another, give --checkpoint-grid)"


def load_weights(
    module: nn.Module, checkpoint: Checkpoint, reading: Reading, convert: Callable[[Weights], Converted] = Converted
) -> LoadReport:
    """Load the backbone's part of a checkpoint. It must hold every weight of the module, with finite values.

    Args:
        module: the backbone.
        checkpoint: result of `load_checkpoint`.
        reading: settings for reading it.
        convert: conversion from the checkpoint's names and shapes to the module's.

    Raises:
        InputError: the file lacks a weight of the module, or has it with another shape or kind; or `allow_missing`
            names no weight of the module.
    """
    own = module.state_dict()
    unknown = next((name for name in reading.allow_missing if not any(_is_of(each, [name]) for each in own)), None)
    if unknown is not None:
        raise unknown_name("weight to allow missing", unknown, own)
    choice = choose_weights(
        checkpoint, own, lambda weights: convert(_without_faults(weights, own)).weights, reading.key
    )
    part = choice.part()
    faults = {name: fault for name, tensor in part.items() if (fault := fault_of(tensor, own.get(name)))}
    converted = convert(_without_faults(part, own))
    given = converted.weights
    found = {name: given[name] for name in own if name in given and is_finite(given[name], own[name].dtype)}
    missing = [name for name in own if name not in found]
    _check_complete(
        own, [name for name in missing if not _is_of(name, reading.allow_missing)], given, faults, checkpoint
    )
    _check_shapes(own, found, checkpoint.path)
    module.load_state_dict(own | found)
    rest = _rest(choice, own, {_storage(tensor) for tensor in found.values()})
    kinds = {NUMBER.sub("#", choice.prefix + name) for name in own}
    beyond = [name for name in rest if NUMBER.sub("#", name) in kinds]
    return LoadReport(
        n_loaded=len(found),
        n_weights=len(own),
        part=choice.prefix.strip("."),
        others=[prefix.strip(".") for prefix in choice.others],
        tables=[*converted.tables, *_other_tables(part, found, converted.tables)],
        beyond=beyond,
        missing=missing,
        ignored=[name for name in rest if name not in beyond],
    )


def _without_faults(weights: Weights, own: Weights) -> Weights:
    """Leave out what cannot be weights: conversions take them for such."""
    return {name: tensor for name, tensor in weights.items() if not fault_of(tensor, own.get(name))}


def _rest(choice: Choice, own: Collection[str], used: Collection[int]) -> list[str]:
    """Return the names of all tensors that were not loaded, except other sets of the backbone's weights."""
    return [
        name
        for name, tensor in choice.weights.items()
        if name.removeprefix(choice.prefix) not in own
        and _storage(tensor) not in used
        and not any(other and name.startswith(other) for other in choice.others)
    ]


def _check_complete(
    own: Weights, lacking: Sequence[str], given: Weights, faults: Mapping[str, str], checkpoint: Checkpoint
) -> None:
    where = f"checkpoint {str(checkpoint.path)!r} does not fit: "
    if lacking and faults:
        name = next((name for name in lacking if name in faults), next(iter(faults)))
        others = f", and {len(faults) - 1} more are unusable" if len(faults) > 1 else ""
        raise InputError(f"{where}{name!r} is {faults[name]}{others}; {SAVE_AS_FLOATS}")
    if lacking and lacking[0] in given:
        raise InputError(
            f"{where}{len(lacking)} of the backbone's {len(own)} weights are not finite there, such as {lacking[0]!r}; "
            "use another checkpoint, or name weights that may be missing with --allow-missing"
        )
    if lacking:
        near = get_close_matches(lacking[0], given, cutoff=0.5) or list(given)[:3]
        raise InputError(
            f"{where}it lacks {len(lacking)} of the backbone's {len(own)} weights, such as {lacking[0]!r} "
            f"(it has {', '.join(map(repr, near))}, …); check --model and --model-arg, or name weights that may be "
            "missing with --allow-missing"
        )


def _check_shapes(own: Weights, found: Weights, path: Path) -> None:
    for name, tensor in found.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(tensor.shape)} there and "
                f"{tuple(own[name].shape)} in the backbone; check --model and --model-arg"
            )


def _other_tables(part: Weights, found: Weights, known: Sequence[PositionTable]) -> list[PositionTable]:
    """Return the tables that a conversion reshaped; their shape shows the grid, such as (1, 14, 14, dim)."""
    changed = (name for name, tensor in found.items() if name in part and part[name].shape != tensor.shape)
    names = set(changed) - {table.name for table in known}
    return [
        PositionTable(name, shape_in_words(part[name]), shape_in_words(found[name])) for name in found if name in names
    ]


def _is_of(name: str, allowed: Sequence[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def _storage(tensor: Tensor) -> int:
    """Identify a tensor under any name or view that a conversion gives it."""
    return id(tensor) if fault_of(tensor, None) else tensor.untyped_storage().data_ptr()


def _shown(names: Sequence[str]) -> str:
    return ", ".join(name if name.isprintable() else repr(name) for name in names[:5]) + (
        ", …" if len(names) > 5 else ""
    )
