"""Blocks of transformers models: tokens against hooks on the paths in their own code, norms, prefixes and grids."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tokenprobe.extract.backbones.transformers_blocks import structure_of, tokens_of
from tokenprobe.store.layout import LayerShape

from .transformers_kit import KINDS, Kind, images, load_folder, made_folder

NAMES = list(KINDS)
SWINS = ("swin", "swinv2")


def own_model(folder: Path, kind: Kind) -> Any:
    """Load the model with transformers alone. The masked autoencoder masks nothing and keeps the order."""
    changes = {"mask_ratio": 0.0} if kind.name == "ViTMAE" else {}
    return transformers.AutoModel.from_pretrained(folder, **changes).get_submodule(kind.tower).eval()


def run(model: Any, kind: Kind, pixels: Tensor, **options: Any) -> Any:
    if kind.name == "ViTMAE":
        options["noise"] = torch.linspace(0, 1, pixels[0, 0].numel() // 64).repeat(len(pixels), 1)
    with torch.no_grad():
        return model(pixel_values=pixels, **options)


def hooked(model: Any, kind: Kind, pixels: Tensor, **options: Any) -> tuple[list[Tensor], Any]:
    """Return the blocks' outputs as (B, N, D), row by row, and the model's own output."""
    outputs: list[Tensor] = []
    blocks = list(model.get_submodule(kind.blocks))
    if kind.name.startswith("Swin"):  # before the downsampling, as in timm
        blocks = [stage.blocks[-1] for stage in blocks]
    keep = [
        block.register_forward_hook(lambda *seen: outputs.append(seen[2] if torch.is_tensor(seen[2]) else seen[2][0]))
        for block in blocks
    ]
    final = run(model, kind, pixels, **options)
    for handle in keep:
        handle.remove()
    return [x.flatten(2).transpose(1, 2) if x.ndim == 4 else x for x in outputs], final


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = made_folder(tmp_path_factory.mktemp("models") / name, KINDS[name])
        return made[name]

    return folder


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_the_outputs_of_the_blocks(folder_of: Any, name: str) -> None:
    kind, folder = KINDS[name], folder_of(name)
    backbone = load_folder(folder)
    expected, _ = hooked(own_model(folder, kind), kind, images())
    assert backbone.prefix_names == kind.prefix
    assert [shape.grid for shape in backbone.shapes] == kind.grids
    tokens = backbone.tokens(images(), range(len(expected)))
    assert len(tokens) == len(expected) == len(kind.grids)
    n_prefix = len(kind.prefix)
    for layer, rows in enumerate(expected):
        patch, prefix = tokens[layer]
        assert (patch.shape[1], patch.shape[2]) == (backbone.shapes[layer].n_patches, backbone.shapes[layer].dim)
        torch.testing.assert_close(patch, rows[:, n_prefix:], rtol=0, atol=0)
        if n_prefix:
            assert prefix is not None
            torch.testing.assert_close(prefix, rows[:, :n_prefix], rtol=0, atol=0)
        else:
            assert prefix is None
    (alone,) = backbone.tokens(images(), [1]).values()
    assert torch.equal(alone[0], tokens[1][0])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SWINS])
def test_layers_are_the_models_hidden_states_up_to_the_last(folder_of: Any, name: str) -> None:
    kind, folder = KINDS[name], folder_of(name)
    states = run(own_model(folder, kind), kind, images(), output_hidden_states=True).hidden_states
    backbone = load_folder(folder)
    layers = range(len(backbone.shapes) - 1)  # the last state is normed in some models
    for layer, (patch, prefix) in backbone.tokens(images(), layers).items():
        state = states[layer + 1]
        rows = state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
        assert torch.equal(patch if prefix is None else torch.cat([prefix, patch], 1), rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_final_norm_is_the_models_own(folder_of: Any, name: str) -> None:
    kind, folder = KINDS[name], folder_of(name)
    found = load_folder(folder).final_norm()
    if not kind.norm:
        assert found is None
        return
    own = own_model(folder, kind).get_submodule(kind.norm)
    assert found is not None
    assert found["eps"] == getattr(own, "variance_epsilon", getattr(own, "eps", None))
    assert found["kind"] == ("LayerNorm" if isinstance(own, nn.LayerNorm) else "RMSNorm")
    assert found["weight"] == own.weight.tolist()
    assert found["bias"] == (own.bias.tolist() if isinstance(own, nn.LayerNorm) else None)


@pytest.mark.parametrize("name", [name for name in NAMES if KINDS[name].norm and KINDS[name].prefix])
def test_the_norm_of_the_last_layer_leads_to_the_models_own_output(folder_of: Any, name: str) -> None:
    kind, folder = KINDS[name], folder_of(name)
    backbone = load_folder(folder)
    ((patch, prefix),) = backbone.tokens(images(), [2]).values()
    norm = backbone.final_norm()
    assert prefix is not None and norm is not None
    rows, values = torch.cat([prefix, patch], 1), (torch.tensor(norm["weight"]), torch.tensor(norm["bias"]))
    normed = F.layer_norm(rows, rows.shape[-1:], *values, norm["eps"])
    final = run(own_model(folder, kind), kind, images())
    if name == "beit":
        pooled = F.layer_norm(patch.mean(1), patch.shape[-1:], *values, norm["eps"])
        torch.testing.assert_close(pooled, final.pooler_output, rtol=1e-5, atol=1e-5)
    elif name.startswith("clip"):  # only the class token is normed
        torch.testing.assert_close(normed[:, 0], final.pooler_output, rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(normed, final.last_hidden_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "aimv2"])
def test_another_image_size_gives_another_grid(folder_of: Any, name: str) -> None:
    kind, folder = KINDS[name], folder_of(name)
    backbone = load_folder(folder, image_size=(64, 32))
    assert [shape.grid for shape in backbone.shapes] == [(2 * height, width) for height, width in kind.grids]
    own = own_model(folder, kind)
    takes = backbone.interpolates
    options: dict[str, Any] = {"interpolate_pos_encoding": True} if takes else {}
    assert bool(backbone.notes) == takes
    expected, _ = hooked(own, kind, images(64, 32), **options)
    for layer, (patch, _) in backbone.tokens(images(64, 32), range(len(expected))).items():
        assert torch.equal(patch, expected[layer][:, len(kind.prefix) :])


class Shuffled(nn.Module):
    """A model whose patches stand column by column, or after which other tokens stand."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.config = transformers.ViTConfig(num_hidden_layers=2, patch_size=8)
        self.embed = nn.Conv2d(3, 6, 8, 8)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.order = order

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([x, torch.zeros(len(x), 1, 6)], 1)[:, self.order]
        for block in self.blocks:
            x = block(x)
        return x


def test_tokens_that_do_not_stand_row_by_row_are_refused() -> None:
    rows = list(range(6))
    model = Shuffled([6, *rows])
    assert structure_of(model, model, (24, 16)).shapes == [LayerShape((3, 2), 6, 1)] * 2
    for order in ([0, 2, 4, 1, 3, 5], [*rows, 6], rows[::-1]):
        model = Shuffled(order)
        with pytest.raises(ValueError, match=r"^its . tokens are not a prefix and then 3 × 2 patches, row by row: "):
            structure_of(model, model, (24, 16))


def test_maps_with_channels_last_are_read_row_by_row() -> None:
    first = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokens_of(first, False), tokens_of(first.permute(0, 2, 3, 1), True))
    assert torch.equal(tokens_of(first, False)[:, 1], first[:, :, 0, 1])


class OfMaps(nn.Module):
    """A model whose blocks return maps of 8 channels, in either order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.config = transformers.ViTConfig(num_hidden_layers=2, patch_size=8)
        self.embed, self.blocks, self.order = nn.Conv2d(3, 8, 8, 8), nn.ModuleList([nn.GELU(), nn.Tanh()]), order

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).permute(self.order)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (32, 32)])
def test_the_place_of_the_channels_is_read_from_the_ratio_of_sides(size: tuple[int, int]) -> None:
    for order, last in (((0, 1, 2, 3), False), ((0, 2, 3, 1), True)):
        model = OfMaps(order)
        found = structure_of(model, model, size)
        assert found.channels_last == last
        assert found.shapes == [LayerShape((size[0] // 8, size[1] // 8), 8, 0)] * 2
