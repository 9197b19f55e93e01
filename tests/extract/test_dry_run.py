"""A dry run downloads no weights and decodes no image, and refuses every fault that it can detect."""

import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract import describe_extraction, extract
from tokenprobe.extract.backbones import load_backbone

from .backbones.kit import SMALL_CLIP
from .kit import MakeConfig, shown

HUB = Path(__file__).parents[1] / "data" / "hub"
PUBLISHED: dict[str, dict[str, Any]] = {
    "timm:vit_tiny_patch16_224.augreg_in21k": {},
    "open_clip:ViT-B-32/openai": SMALL_CLIP | {"image_size": 32},
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> NoReturn:
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("model", PUBLISHED)
def test_published_weights_are_not_fetched(tiny_config: MakeConfig, model: str) -> None:
    config = tiny_config(model=model, model_arg=PUBLISHED[model], no_pretrained=False, batch_size=2)
    lines = shown("\n".join(describe_extraction(config)))
    assert lines["weights"] == "published; a dry run does not download them and draws random ones of the same shapes"
    assert lines["model"].startswith(f"{model}, ") and float(lines["time"].split(" at ")[1].split()[0]) >= 0


def test_weights_that_are_there_or_drawn_as_asked_have_no_line(tiny_config: MakeConfig) -> None:
    assert "weights" not in shown("\n".join(describe_extraction(tiny_config())))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:VisionTransformer", "has no published weights; give --checkpoint or --no-pretrained"),
        ("open_clip:ViT-B-32", "needs the name of its weights; write open_clip:ViT-B-32/WEIGHTS"),
        ("open_clip:ViT-B-32/opnai", "unknown weights of open_clip model 'ViT-B-32' 'opnai'; known: openai"),
    ],
)
def test_names_of_no_weights_are_refused(tiny_config: MakeConfig, model: str, message: str) -> None:
    for run in (describe_extraction, extract):
        with pytest.raises(InputError, match=message):
            run(tiny_config(model=model, model_arg={}, no_pretrained=False))


def test_a_model_that_brings_its_weights_needs_its_settings_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    vision = {key: value for key, value in SMALL_CLIP.items() if key != "embed_dim"} | {"image_size": 64}
    settings = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision}, "preprocess_cfg": {"resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    backbone = load_backbone(f"open_clip:local-dir:{folder}", fetches=False)
    assert (backbone.shapes[-1].dim, backbone.shapes[-1].grid, len(backbone.shapes)) == (32, (4, 4), 2)
    assert backbone.transform.crop_mode == "squash"
    with pytest.raises(InputError, match="cannot be built or its weights cannot be downloaded"):
        load_backbone(f"open_clip:local-dir:{folder}")


def test_a_hub_entry_is_built_without_its_weights_if_it_can_be() -> None:
    model = f"hub:{HUB}/dinov2_tiny"
    drawn, published = load_backbone(model, fetches=False), load_backbone(model)
    assert drawn.weights_hash() == load_backbone(model, no_pretrained=True).weights_hash() != published.weights_hash()
    assert drawn.shapes == published.shapes
    always = f"hub:{HUB}/capi_tiny"
    assert load_backbone(always, fetches=False).weights_hash() == load_backbone(always).weights_hash()


def test_unreadable_images_are_not_looked_for(tiny_config: MakeConfig) -> None:
    lines = shown("\n".join(describe_extraction(tiny_config(skip_bad_images=True))))
    assert lines["unreadable"] == "not checked: a dry run decodes no image"
