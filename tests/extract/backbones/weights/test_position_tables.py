"""Position tables: the assumed grid, resampling to the backbone's grid, and the error if two grids are possible."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import RelPosBias
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.position_tables import (
    UNKNOWN,
    Grid,
    PositionTable,
    fit_tables,
    flat_tables,
    in_words,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")

PATH, DIM = Path("a.pt"), 6


class Patches(nn.Module):
    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid_size = grid


class Absolute(nn.Module):
    """A table over patches, as timm's transformers have."""

    def __init__(self, grid: Grid, n_prefix: int) -> None:
        super().__init__()
        self.patch_embed = Patches(grid)
        self.pos_embed = nn.Parameter(torch.zeros(1, n_prefix + grid[0] * grid[1], DIM))


class Clip(nn.Module):
    """The same without the first axis, as open_clip's towers have."""

    def __init__(self, grid: Grid, n_prefix: int) -> None:
        super().__init__()
        self.grid_size = grid
        self.positional_embedding = nn.Parameter(torch.zeros(n_prefix + grid[0] * grid[1], DIM))


def maps(grid: Grid) -> Tensor:
    """Return a table as (1, dim, height, width): all positions have different values, and rows differ from columns."""
    return torch.randn(1, DIM, *grid, generator=torch.Generator().manual_seed(3))


def table(grid: Grid, n_prefix: int) -> Tensor:
    prefix = torch.randn(1, n_prefix, DIM, generator=torch.Generator().manual_seed(4))
    return torch.cat([prefix, maps(grid).flatten(2).transpose(1, 2)], 1)


def expected(taken: Grid, own: Grid, n_prefix: int, **options: Any) -> Tensor:
    """Resample by torch alone."""
    how: dict[str, Any] = {"mode": "bicubic", "antialias": True} | options
    resized = maps(taken) if taken == own else F.interpolate(maps(taken), size=own, **how)
    return torch.cat([table(taken, n_prefix)[:, :n_prefix], resized.flatten(2).transpose(1, 2)], 1)


CASES: list[tuple[Grid, Grid, Grid | None]] = [
    ((4, 4), (4, 4), None),
    ((6, 6), (4, 4), None),
    ((6, 6), (4, 6), None),
    ((4, 6), (4, 6), None),
    ((6, 6), (4, 9), (6, 6)),
    ((4, 9), (4, 9), (4, 9)),
    ((9, 4), (6, 6), (9, 4)),
    ((7, 28), (14, 14), (7, 28)),
    ((14, 14), (7, 28), (14, 14)),
    ((3, 8), (4, 6), (3, 8)),
    ((3, 5), (4, 4), (3, 5)),
]
"""The grids of the file, of the backbone, and of the user; without the last, the count alone decides."""


@pytest.mark.parametrize(("taken", "own", "asked"), CASES)
@pytest.mark.parametrize("n_prefix", [0, 1, 5])
@pytest.mark.parametrize("kind", [Absolute, Clip])
def test_tables_come_to_the_backbones_grid(
    kind: type[Absolute | Clip], taken: Grid, own: Grid, asked: Grid | None, n_prefix: int
) -> None:
    module = kind(own, n_prefix)
    (name,) = module.state_dict()
    given = table(taken, n_prefix).view(*module.state_dict()[name].shape[:-2], -1, DIM)
    fitted, tables = fit_tables(module, {name: given, "w": torch.ones(1)}, PATH, asked)
    found = fitted[name].view(1, -1, DIM)
    torch.testing.assert_close(found, expected(taken, own, n_prefix), rtol=1e-5, atol=1e-5)
    assert fitted[name].shape == module.state_dict()[name].shape
    assert tables == [PositionTable(name, in_words(taken), in_words(own))]
    assert tables[0].resampled == (taken != own) == (not torch.equal(fitted[name], given))


def test_the_interpolation_is_the_one_asked_for() -> None:
    how = {"interpolation": "bilinear", "antialias": False, "align_corners": True}
    fitted, _ = fit_tables(Absolute((4, 6), 1), {"pos_embed": table((6, 6), 1)}, PATH, None, **how)
    other = expected((6, 6), (4, 6), 1, mode="bilinear", antialias=False, align_corners=True)
    torch.testing.assert_close(fitted["pos_embed"], other)


@pytest.mark.parametrize(
    ("n", "own", "asked", "message"),
    [
        (
            36,
            (4, 9),
            None,
            r"may have the grid 6 × 6 or the backbone's 4 × 9; choose one, such as --checkpoint-grid 6,6$",
        ),
        (196, (7, 28), None, r"may have the grid 14 × 14 or the backbone's 7 × 28; choose one, such as --checkpoint-g"),
        (
            35,
            (6, 6),
            None,
            r"has 35 positions, neither a square nor the backbone's 6 × 6; give its grid with --checkpoi",
        ),
        (36, (4, 9), (4, 8), r"has 36 positions, not 4 × 8; give its own grid with --checkpoint-grid$"),
        (16, (4, 4), (8, 1), r"has 16 positions, not 8 × 1; "),
        (-1, (4, 4), None, r"has -1 positions, neither a square nor the backbone's 4 × 4; "),
    ],
)
def test_a_grid_that_cannot_be_told_is_asked_for(n: int, own: Grid, asked: Grid | None, message: str) -> None:
    with pytest.raises(InputError, match=rf"^position table 'pos_embed' of checkpoint 'a\.pt' {message}"):
        fit_tables(Absolute(own, 2), {"pos_embed": torch.ones(1, 2 + n, DIM)}, PATH, asked)


SHAPES = [(1, 18, DIM + 1), (18, DIM), (1, DIM, 4, 4), (0, 27, DIM), ()]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_of_another_width_or_form_is_left_to_the_check_of_shapes(shape: tuple[int, ...]) -> None:
    given = torch.ones(shape)
    fitted, tables = fit_tables(Absolute((4, 4), 2), {"pos_embed": given}, PATH, None)
    assert fitted["pos_embed"] is given
    assert tables == []


@pytest.mark.parametrize("given", [{}, {"w": torch.ones(1)}])
def test_a_grid_asked_for_without_a_table_is_refused(given: dict[str, Tensor]) -> None:
    assert fit_tables(Absolute((4, 4), 0), given, PATH, None) == (given, [])
    message = r"^checkpoint 'a\.pt' has no position table with an open grid; leave out --checkpoint-grid$"
    with pytest.raises(InputError, match=message):
        fit_tables(Absolute((4, 4), 0), given, PATH, (4, 4))


# --- relative tables ------------------------------------------------------------------------------------------


class Relative(nn.Module):
    """Biases by the offsets of patches, of all patches or of those in a window."""

    def __init__(self, grid: Grid, window: Grid, n_prefix: int) -> None:
        super().__init__()
        self.patch_embed = Patches(grid)
        self.attn = RelPosBias(window, 2, n_prefix)


NAME = "attn.relative_position_bias_table"


def biases(window: Grid, n_prefix: int) -> Tensor:
    return RelPosBias(window, 2, n_prefix).relative_position_bias_table.detach() * 50


@pytest.mark.parametrize(("taken", "own", "asked"), [case for case in CASES if case[:2] != ((7, 28), (14, 14))])
@pytest.mark.parametrize("n_prefix", [0, 1])
def test_relative_tables_come_to_the_backbones_grid(taken: Grid, own: Grid, asked: Grid | None, n_prefix: int) -> None:
    given = biases(taken, n_prefix)
    theirs = RelPosBias(taken, 2, n_prefix)
    theirs.load_state_dict({"relative_position_bias_table": given})
    theirs.set_window_size(own)  # which knows both windows
    fitted, tables = fit_tables(Relative(own, own, n_prefix), {NAME: given}, PATH, asked)
    torch.testing.assert_close(fitted[NAME], theirs.relative_position_bias_table.data)
    assert tables == [PositionTable(NAME, in_words(taken), in_words(own))]
    assert tables[0].resampled == (taken != own) == (not torch.equal(fitted[NAME], given))


def test_a_window_that_is_not_all_patches_is_told_by_its_size_alone() -> None:
    module = Relative((8, 8), (4, 4), 0)
    _, tables = fit_tables(module, {NAME: biases((7, 7), 0)}, PATH, None)
    assert tables == [PositionTable(NAME, "7 × 7", "4 × 4")]
    with pytest.raises(InputError, match="no position table with an open grid"):
        fit_tables(module, {NAME: biases((7, 7), 0)}, PATH, (7, 7))


def test_offsets_that_are_of_no_window_are_refused() -> None:
    with pytest.raises(
        InputError, match=rf"^position table '{NAME}' of checkpoint 'a\.pt' has 48 positions, neither a squa"
    ):
        fit_tables(Relative((4, 4), (4, 4), 0), {NAME: torch.ones(48, 2)}, PATH, None)


def test_a_table_of_a_size_of_its_own_is_no_flat_one() -> None:
    """As Qwen3's, which is resampled in every forward pass."""
    assert flat_tables(Absolute((4, 4), 16)) == {"pos_embed": (4, 4)}
    assert flat_tables(Absolute((4, 4), 17)) == {}


FLAT = {
    "vit_tiny_patch16_224": {"pos_embed": (14, 14)},
    "vit_small_patch14_reg4_dinov2.lvd142m": {"pos_embed": (37, 37)},
    "eva02_tiny_patch14_224": {"pos_embed": (16, 16)},
    "deit_tiny_distilled_patch16_224": {"pos_embed": (14, 14)},
    "cait_xxs24_224": {"pos_embed": (14, 14)},
    "hiera_tiny_224": {},
    "samvit_base_patch16": {},
    "resnet18": {},
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_tables_of_timms_models_are_found(name: str) -> None:
    with torch.device("meta"):
        assert flat_tables(timm.create_model(name)) == FLAT[name]


@pytest.mark.parametrize(
    ("name", "table"),
    [("tnt_s_patch16_224", "patch_pos"), ("hiera_tiny_224", "pos_embed"), ("crossvit_9_240", "pos_embed_1")],
)
def test_tables_whose_grid_nothing_tells_are_told_to_be_so(name: str, table: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    weights = {table: model.state_dict()[table]}
    fitted, tables = fit_tables(model, weights, PATH, None)
    assert (fitted, tables) == (weights, [PositionTable(table, UNKNOWN, UNKNOWN)])
    assert fit_tables(model, {table: torch.ones(1, 2, 3)}, PATH, None)[1] == []


def test_flat_tables_of_windows_are_found() -> None:
    with torch.device("meta"):
        swin, beit = map(timm.create_model, ("swin_tiny_patch4_window7_224", "beit_base_patch16_224"))
    assert set(flat_tables(swin).values()) == {(7, 7)}
    assert flat_tables(beit) == {f"blocks.{i}.attn.relative_position_bias_table": (14, 14) for i in range(12)}
