"""The catalogue of models: names, pages, and shapes without weights."""

import pytest
import timm

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.catalogue import PAGE_SIZE, image_bytes, page_of, shapes_of, table_of
from tokenprobe.extract.backbones.from_timm import load_timm
from tokenprobe.store.layout import LayerShape


def test_names_with_weights_come_alone_and_architectures_without_too() -> None:
    names = set(page_of("vit_tiny_patch16_224*").names)
    assert names == {f"timm:{name}" for name in timm.list_pretrained("vit_tiny_patch16_224*")}
    assert page_of("convnext_atto_rms").names == ["timm:convnext_atto_rms"], "it has no weights"


@pytest.mark.parametrize("pattern", ["vit_tiny_patch16_224", "timm:vit_tiny_patch16_224.*", "vit_tiny_patch16_224.a*"])
def test_a_pattern_is_of_a_name_with_or_without_its_source_and_weights(pattern: str) -> None:
    assert "timm:vit_tiny_patch16_224.augreg_in21k" in page_of(pattern).names


def test_open_clip_is_listed_too() -> None:
    assert "open_clip:ViT-B-32/openai" in page_of("ViT-B-32").names
    assert all(name.startswith("open_clip:RN50") for name in page_of("open_clip:RN50*").names)


def test_hub_models_are_listed_by_their_entry_too() -> None:
    assert "hub:facebookresearch/dinov2/dinov2_vitb14_reg" in page_of("dinov2_vitb14*").names
    assert page_of("hub:valeoai/*").names == page_of("franca_vit*").names != []


def test_pages_cut_the_list() -> None:
    first = page_of("vit_*")
    last = page_of("vit_*", first.n_pages)
    assert len(first.names) == PAGE_SIZE
    assert first.n_models == PAGE_SIZE * (first.n_pages - 1) + len(last.names)
    assert not set(first.names) & set(page_of("vit_*", 2).names)
    message = rf"^no page {first.n_pages + 1} for 'vit_\*': {first.n_models} models match, on pages 1 to "
    with pytest.raises(InputError, match=message):
        page_of("vit_*", first.n_pages + 1)


def test_a_pattern_that_nothing_matches_lists_near_names() -> None:
    with pytest.raises(InputError, match=r"^unknown model 'convnext_attto'; known: convnext_atto"):
        page_of("convnext_attto")


@pytest.mark.parametrize(
    ("name", "first", "last", "depth"),
    [
        ("timm:vit_tiny_patch16_224.augreg_in21k", LayerShape((14, 14), 192, 1), LayerShape((14, 14), 192, 1), 12),
        ("timm:vit_tiny_patch16_384.augreg_in21k_ft_in1k", LayerShape((24, 24), 192, 1), None, 12),
        ("timm:vit_small_patch14_reg4_dinov2.lvd142m", LayerShape((37, 37), 384, 5), None, 12),
        ("timm:convnext_atto.d2_in1k", LayerShape((56, 56), 40, 0), LayerShape((7, 7), 320, 0), 4),
        ("timm:swin_tiny_patch4_window7_224.ms_in1k", LayerShape((56, 56), 96, 0), LayerShape((7, 7), 768, 0), 4),
        ("open_clip:ViT-B-32/openai", LayerShape((7, 7), 768, 1), LayerShape((7, 7), 768, 1, 512), 12),
        ("open_clip:RN50/openai", LayerShape((56, 56), 64, 0), LayerShape((7, 7), 2048, 0, 1024), 5),
        ("open_clip:ViT-B-16-SigLIP-256/webli", LayerShape((16, 16), 768, 0), LayerShape((16, 16), 768, 0, 768), 12),
    ],
)
def test_shapes_are_told_without_weights(name: str, first: LayerShape, last: LayerShape | None, depth: int) -> None:
    shapes = shapes_of(name)
    assert (shapes[0], shapes[-1], len(shapes)) == (first, last or first, depth)


def test_shapes_are_those_that_loading_gives() -> None:
    backbone = load_timm(BackboneRequest("vit_tiny_patch16_224", {}, None, False, 0))
    assert shapes_of("timm:vit_tiny_patch16_224.augreg_in21k") == list(backbone.shapes)


def test_the_bytes_of_an_image_are_those_of_its_arrays() -> None:
    shapes = [LayerShape((14, 14), 192, 1), LayerShape((7, 7), 384, 0, 512)]
    assert image_bytes(shapes) == (196 * 192 * 2 + 192 * 2 + 192 * 4) + (49 * 384 * 2 + 384 * 4 + 512 * 4)


def test_a_model_whose_shapes_cannot_be_told_has_a_row_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.models.ConvNeXt, "forward_intermediates", None)
    page = page_of("convnext_femto_ols")
    assert shapes_of(page.names[0]) == []
    assert [list(column.cells) for column in table_of(page).columns[1:]] == [["?"]] * 5


def test_the_command_prints_a_row_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "convnext_atto*"]) == 0
    shown = capsys.readouterr().out
    for text in ("convnext_atto.d2_in1k", "40–320", "3,136–49", "3 models; kB: tokens of all layers"):
        assert text in shown
    assert main(["models", "vit_tinyy*"]) == 2
    assert capsys.readouterr().err.startswith("probe models: unknown model 'vit_tinyy*'; known: ")
