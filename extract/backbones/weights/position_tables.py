"""Position tables: finding the grid of a table in a file, and resampling the table to the backbone's grid.

A flat table has prefix + height · width positions and does not state its grid: 196 patches are 14 × 14 or 7 × 28. The
user may give the grid. Otherwise it is the backbone's own if the counts agree, else a square. If the backbone's grid is
not square but the count is a square number, both are possible, and the user must give the grid.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from ....errors import InputError

Grid = tuple[int, int]

ABSOLUTE = ("pos_embed", "positional_embedding")
"""Names of flat tables of (1, positions, dim) or (positions, dim)."""
UNKNOWN = "an unknown grid"
FLAT = 3
"""Most axes of a flat table."""
MOST_PREFIX = 16
"""Most prefix tokens with a position."""
HIDDEN = re.compile(r"(^|\.)(pos_embed_\d|patch_pos|attention_biases)$")
"""Names of flat tables whose grid the model does not state: CrossViT's, TNT's, LeViT's, EfficientFormer's."""
RELATIVE = "relative_position_bias_table"
"""Name of flat tables with shape (offsets, heads)."""


@dataclass(frozen=True)
class PositionTable:
    """A position table that was loaded.

    Attributes:
        name: name in the backbone.
        before: grid assumed for the table in the file, such as "6 × 6".
        after: grid of the backbone's table.
    """

    name: str
    before: str
    after: str

    @property
    def resampled(self) -> bool:
        """Whether the values were changed."""
        return self.before != self.after


def flat_tables(module: nn.Module) -> dict[str, Grid]:
    """Return the flat tables of a backbone, each with its grid of patches, or of a window of patches."""
    patches, found = _grid_of(module), {}
    for name, own in module.state_dict().items():
        parent, _, last = name.rpartition(".")
        if name in ABSOLUTE and patches is not None and own.ndim <= FLAT:
            n_prefix = own.shape[-2] - _n_patches(patches)
            if 0 <= n_prefix <= MOST_PREFIX:  # other tables have their own size; the model resamples them per forward
                found[name] = patches
        if last == RELATIVE and own.ndim == 2:
            height, width = module.get_submodule(parent).window_size  # type: ignore[misc]
            found[name] = (height, width)
    return found


def moved_tables(native: nn.Module, module: nn.Module) -> list[PositionTable]:
    """Return the tables that change at another image size, with their grids before and after.

    Args:
        native: the backbone at its own size; its weights do not matter.
        module: the backbone at the other size.
    """
    before, after, ours = flat_tables(native), flat_tables(module), module.state_dict()
    both = [name for name in before if name in after]
    moved = [PositionTable(name, in_words(before[name]), in_words(after[name])) for name in both]
    moved += [
        PositionTable(name, shape_in_words(theirs), shape_in_words(ours[name]))
        for name, theirs in native.state_dict().items()
        if name not in both and name in ours
    ]
    return [table for table in moved if table.resampled]


def left_tables(native: nn.Module, module: nn.Module, *, of_other_form: bool) -> list[str]:
    """Return the tables with another grid but the same shape at another image size: no library resamples them.

    Args:
        native: the backbone at its own size.
        module: the backbone at the other size.
        of_other_form: whether the other size has another ratio of height to width.
    """
    before, after, ours = flat_tables(native), flat_tables(module), module.state_dict()
    same = [name for name, theirs in native.state_dict().items() if name in ours and ours[name].shape == theirs.shape]
    hidden = _tables_of_no_grid(module) if of_other_form else []
    return [name for name in same if name in hidden or before.get(name) != after.get(name, before.get(name))]


def fit_tables(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path, asked: Grid | None, **options: Any
) -> tuple[dict[str, Tensor], list[PositionTable]]:
    """Resample the flat tables among some weights to a backbone's grids.

    Args:
        module: the backbone.
        weights: weights by the backbone's names.
        path: file of the weights.
        asked: (height, width) in patches of the file's tables over all patches; None to guess it from their size.
        options: interpolation options for `timm.layers.resample_abs_pos_embed`.

    Returns:
        The weights, with tables on the backbone's grids; and a record per table.

    Raises:
        InputError: the grid of a table is unclear, or differs from `asked`.
    """
    own, fitted, tables = module.state_dict(), dict(weights), []
    patches, needed = _grid_of(module), False
    for name, grid in flat_tables(module).items():
        table, ours = weights.get(name), own[name]
        if table is None or _but_positions(table) != _but_positions(ours):
            continue  # the loading checks the shape of every weight
        count = _n_offsets if name.endswith(RELATIVE) else _n_patches
        n_others = ours.shape[-2] - count(grid)
        needed = needed or grid == patches
        try:
            taken = _grid_taken(table.shape[-2] - n_others, grid, asked if grid == patches else None, count)
        except ValueError as error:
            raise InputError(f"position table {name!r} of checkpoint {str(path)!r} {error}") from error
        if name.endswith(RELATIVE):
            fitted[name] = resize_rel_pos_bias_table(table, grid, ours.shape, taken)
        elif taken != grid:
            fitted[name] = _resampled(table, n_others, taken, grid, options)
        tables.append(PositionTable(name, in_words(taken), in_words(grid)))
    hidden = [name for name in _tables_of_no_grid(module) if name in weights]
    tables += [PositionTable(name, UNKNOWN, UNKNOWN) for name in hidden if weights[name].shape == own[name].shape]
    if asked is not None and not needed:
        raise InputError(
            f"checkpoint {str(path)!r} has no position table with an open grid; leave out --checkpoint-grid"
        )
    return fitted, tables


def in_words(grid: Grid) -> str:
    """Return a grid as people write it: "14 × 14"."""
    return f"{grid[0]} × {grid[1]}"


def shape_in_words(tensor: Tensor) -> str:
    """Return a shape as people write it: "1 × 14 × 14 × 768"."""
    return " × ".join(map(str, tensor.shape))


def _grid_of(module: nn.Module) -> Grid | None:
    """Return the grid of a backbone's patches, for timm and open_clip models."""
    grid = getattr(getattr(module, "patch_embed", module), "grid_size", None)
    return grid if isinstance(grid, tuple) else None


def _tables_of_no_grid(module: nn.Module) -> list[str]:
    of_no_patches = "pos_embed" if _grid_of(module) is None else ""  # Hiera's
    return [
        name
        for name, own in module.state_dict().items()
        if HIDDEN.search(name) or (name == of_no_patches and own.ndim <= FLAT)
    ]


def _but_positions(table: Tensor) -> list[int]:
    """Return the shape of a table without the axis of positions, which is the last but one."""
    return [*table.shape[:-2], -1, *table.shape[-1:]]


def _n_patches(grid: Grid) -> int:
    return grid[0] * grid[1]


def _n_offsets(grid: Grid) -> int:
    """Return the number of different offsets between two patches of a window."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1)


def _grid_taken(n: int, own: Grid, asked: Grid | None, count: Callable[[Grid], int]) -> Grid:
    """Return the grid to assume for a table of `n` positions or offsets; a ValueError says why there is none."""
    root = isqrt(max(n, 0))
    side = next((each for each in (root, (root + 1) // 2) if each and count((each, each)) == n), 0)
    if asked is not None and count(asked) != n:
        raise ValueError(f"has {n} positions, not {in_words(asked)}; give its own grid with --checkpoint-grid")
    if asked is not None:
        return asked
    if count(own) == n and side and own != (side, side):
        raise ValueError(
            f"may have the grid {side} × {side} or the backbone's {in_words(own)}; choose one, such as "
            f"--checkpoint-grid {side},{side}"
        )
    if count(own) != n and not side:
        raise ValueError(
            f"has {n} positions, neither a square nor the backbone's {in_words(own)}; give its grid with "
            "--checkpoint-grid HEIGHT,WIDTH"
        )
    return own if count(own) == n else (side, side)


def _resampled(table: Tensor, n_prefix: int, taken: Grid, own: Grid, options: Mapping[str, Any]) -> Tensor:
    """Resample an absolute table, (1, positions, dim) or (positions, dim), as timm and open_clip do."""
    resampled: Tensor = resample_abs_pos_embed(
        table.view(1, *table.shape[-2:]), list(own), list(taken), n_prefix, **options
    )
    return resampled.view(*table.shape[:-2], *resampled.shape[-2:])
