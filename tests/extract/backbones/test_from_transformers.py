"""Loading of transformers models: weights, settings, towers, seeds, twins in timm, and refusals in one line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models import VisionTransformer
from torch import Tensor

from tokenprobe.cli import main
from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.backbones import BackboneRequest, absolute_model, load_backbone, split_source
from tokenprobe.extract.backbones.from_transformers import load_transformers, remote_code

from .kit import hooked
from .transformers_kit import KINDS, MLP, TEXT, Kind, images, load_folder, made_folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_folder(tmp_path_factory.mktemp("models") / "vit", KINDS["vit"])


def copied(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Copy a model with changed weights."""
    to.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (to / name).write_text((folder / name).read_text())
    save_file(change(load_file(folder / "model.safetensors")), to / "model.safetensors", metadata={"format": "pt"})
    return to


def as_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give DINOv2's weights timm's names; queries, keys and values are one matrix there."""
    parts = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.attention.query": "attention.q_proj",  # this name and the next three: of earlier transformers
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "attention.o_proj": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    renamed = {}
    for name, tensor in weights.items():
        for old, new in parts.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    for name in [each for each in renamed if "q_proj" in each]:
        whole = torch.cat([renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"])
        renamed[name.replace("attention.q_proj", "attn.qkv")] = whole
    del renamed["embeddings.mask_token"]
    return renamed


def test_a_model_and_its_twin_in_timm_give_the_same_tokens(tmp_path: Path) -> None:
    backbone = load_folder(made_folder(tmp_path / "dinov2", KINDS["dinov2"]))
    size: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
        "init_values": 1.0,
    }
    twin = VisionTransformer(num_classes=0, **size).eval()
    twin.load_state_dict(as_timm(backbone.module.state_dict()))
    expected = hooked(list(twin.blocks), twin, images())
    for layer, (patch, prefix) in backbone.tokens(images(), [0, 1, 2]).items():
        assert prefix is not None
        torch.testing.assert_close(torch.cat([prefix, patch], 1), expected[layer], rtol=1e-5, atol=1e-5)


def test_the_backbone_is_frozen_and_named_without_its_path(vit: Path) -> None:
    state = torch.random.get_rng_state()
    backbone = load_backbone(f"transformers:local-dir:{vit}")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (backbone.name, backbone.packages) == ("transformers:local-dir:vit", ("transformers",))
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not any(part.training for part in backbone.module.modules())
    assert all(parameter.dtype == torch.float32 for parameter in backbone.module.parameters())


def test_of_a_model_of_images_and_text_only_the_image_tower_is_kept(tmp_path: Path) -> None:
    whole = load_folder(made_folder(tmp_path / "clip", KINDS["clip"]))
    assert type(whole.module).__name__ == "CLIPVisionModel"
    drawn = load_folder(tmp_path / "clip", pretrained=False)
    assert drawn.module.state_dict().keys() == whole.module.state_dict().keys()
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    own = weights["vision_model.post_layernorm.weight"]
    assert whole.final_norm()["weight"] == own.tolist()  # type: ignore[index]


def test_drawn_weights_are_those_of_the_seed(vit: Path) -> None:
    first, again, other = (load_folder(vit, pretrained=False, seed=seed).weights_hash() for seed in (0, 0, 1))
    assert first == again != other
    assert load_folder(vit, seed=0).weights_hash() == load_folder(vit, seed=1).weights_hash() != first


def test_a_dry_run_reads_no_weights(vit: Path, tmp_path: Path) -> None:
    empty = copied(vit, tmp_path / "empty", lambda weights: weights)
    (empty / "model.safetensors").write_bytes(b"")
    assert load_folder(empty, fetches=False).shapes == load_folder(vit).shapes


def test_missing_poolers_are_dropped_and_other_missing_weights_are_named(vit: Path, tmp_path: Path) -> None:
    def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}

    no_pooler = copied(vit, tmp_path / "no-pooler", without("pooler"))
    assert "pooler.dense.weight" in load_folder(vit).module.state_dict()
    hashes = {load_folder(no_pooler, seed=seed).weights_hash() for seed in (0, 1)}
    assert len(hashes) == 1, "no drawn weight is part of the hash"
    tokens, expected = (load_folder(each).tokens(images(), [2])[2][0] for each in (no_pooler, vit))
    assert torch.equal(tokens, expected)
    lacking = copied(vit, tmp_path / "lacking", without("layernorm"))
    with pytest.raises(
        InputError, match=r"^the weights of .* lack \d+ of the model's \d+, such as 'layernorm.bias'; use"
    ):
        load_folder(lacking)
    sheared = copied(vit, tmp_path / "sheared", lambda w: w | {"layernorm.bias": torch.zeros(3)})
    with pytest.raises(InputError, match="cannot be built or its weights cannot be downloaded"):
        load_folder(sheared)


def test_arguments_are_settings_of_the_vision_model(vit: Path, tmp_path: Path) -> None:
    drawn = load_folder(vit, pretrained=False, arguments={"num_hidden_layers": 2})
    assert len(drawn.shapes) == 2 and drawn.arguments == {"num_hidden_layers": 2}
    clip = made_folder(tmp_path / "clip", KINDS["clip"])
    assert len(load_folder(clip, pretrained=False, arguments={"num_hidden_layers": 1}).shapes) == 1
    with pytest.raises(InputError, match=r"^unknown setting of transformers model .*'num_layerz'; known: num_"):
        load_folder(vit, arguments={"num_layerz": 2})
    with pytest.raises(InputError, match=r"cannot be built or .* \(.*nonsense.*\); check the name and --model-arg"):
        load_folder(vit, pretrained=False, arguments={"hidden_act": "nonsense"})


def test_the_masked_autoencoder_sees_the_whole_image_always_alike(tmp_path: Path) -> None:
    backbone = load_folder(made_folder(tmp_path / "mae", KINDS["mae"]))
    first, again = (backbone.tokens(images(), [2])[2][0] for _ in range(2))
    assert torch.equal(first, again) and first.shape[1] == 16


def test_weights_are_read_from_safetensors_alone(vit: Path, tmp_path: Path) -> None:
    folder = copied(vit, tmp_path / "pickled", lambda weights: weights)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"^folder '.*/pickled' has no weights in safetensors, and no other form is read; "
    ):
        load_folder(folder)
    assert load_folder(folder, pretrained=False).shapes == load_folder(vit).shapes


def test_code_beside_a_model_does_not_run_unless_asked(vit: Path, tmp_path: Path) -> None:
    folder = copied(vit, tmp_path / "coded", lambda weights: weights)
    config = json.loads((folder / "config.json").read_text())
    trace = f"import pathlib\npathlib.Path({str(tmp_path / 'HAS-RUN')!r}).touch()\n"
    (folder / "theirs.py").write_text(
        trace + "from transformers import ViTConfig\nclass Theirs(ViTConfig):\n    pass\n"
    )
    unknown = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (folder / "config.json").write_text(json.dumps(config | unknown))
    with pytest.raises(InputError, match="cannot be built"):
        load_folder(folder)
    assert not (tmp_path / "HAS-RUN").exists()
    with pytest.raises(InputError):  # the code has no model of that name
        load_folder(folder, arguments={"trust_remote_code": True})
    assert (tmp_path / "HAS-RUN").exists()
    assert remote_code("org/name", {}) == remote_code("org/name", {"trust_remote_code": False}) == ""
    assert remote_code("org/name", {"trust_remote_code": True}) == "code from https://huggingface.co/org/name"
    assert remote_code("local-dir:/x", {"trust_remote_code": True}) == "the code in '/x'"


def other_models(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write models that are no backbones; return them with the message that refuses them."""
    patches = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = {
        "bert": (Kind("Bert", TEXT, "", ""), "is not a vision model: BertModel reads input_ids$"),
        "naflex": (
            Kind("Siglip2Vision", patches, "", ""),
            "reads more than the pixels of an image: Siglip2VisionModel ne",
        ),
        "yolos": (
            Kind("Yolos", MLP | {"image_size": [32, 32], "use_mid_position_embeddings": False}, "", ""),
            r"117 tokens are not a prefix and then 4 × 4 pa",
        ),
        "blocks": (
            Kind("MobileViT", {"image_size": 32, "hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [8] * 7}, "", ""),
            "cannot be read at .* MobileViTModel has no hidden states that can be read: no list of its ",
        ),
    }
    return {name: (made_folder(folder / name, kind), message) for name, (kind, message) in made.items()}


def test_models_that_are_no_backbones_are_refused_in_one_line(tmp_path: Path) -> None:
    for name, (folder, message) in other_models(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            load_folder(folder)
        assert "\n" not in str(caught.value), name


def test_a_size_that_a_model_cannot_take_is_refused_with_advice(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "aimv2", KINDS["aimv2"])
    with pytest.raises(
        InputError, match=r"cannot be read at \(48, 32\) pixels: .*; leave out --image-size for the model's"
    ):
        load_folder(folder, image_size=(48, 32))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("local-dir:/no/such", MissingError, "^no folder at '/no/such'; expected a model that save_pretrained wrote$"),
        ("./here", InputError, r"^transformers model './here': expected ORG/NAME on the Hugging Face hub, such as "),
        ("a/b/c", InputError, "expected ORG/NAME"),
        ("", InputError, "expected ORG/NAME"),
    ],
)
def test_names_of_no_model_are_refused(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_transformers(BackboneRequest(name, {}, None, True, 0))


def test_a_folder_on_the_way_is_not_taken_for_a_model_of_the_hub(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vit.parents[1])
    with pytest.raises(InputError, match="expected ORG/NAME on the Hugging Face hub"):
        load_transformers(BackboneRequest(str(vit.relative_to(vit.parents[1])), {}, None, True, 0))


@pytest.mark.parametrize("gone", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_a_part_is_refused(vit: Path, tmp_path: Path, gone: str) -> None:
    folder = copied(vit, tmp_path / "part", lambda weights: weights)
    (folder / gone).unlink()
    with pytest.raises(
        InputError, match=rf"^folder '.*/part' has no {gone}; write it there with save_pretrained of the"
    ):
        load_folder(folder)


def test_a_checkpoint_is_refused_with_advice(vit: Path) -> None:
    with pytest.raises(
        InputError, match=r"^transformers models take no --checkpoint: save 'a\.pt' as model\.safetensors"
    ):
        load_folder(vit, checkpoint=Path("a.pt"))


@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unreachable_hub_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pretrained: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    data = Path(__file__).parents[2] / "data"
    flags = ["extract", "-m", "transformers:nobody/no-such-model", "-d", "demo", "-o", str(tmp_path / "s.zarr")]
    assert data.is_dir() and main([*flags, *([] if pretrained else ["--no-pretrained"])]) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(
        "probe extract: transformers model 'nobody/no-such-model' cannot be built or its weights cann"
    )
    assert last.endswith("); check the name and --model-arg, or name a folder: transformers:local-dir:FOLDER")


def test_without_the_package_the_extra_is_named(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"need the package transformers: pip install 'tokenprobe\[transformers\]'$"):
        load_folder(vit)


def test_names_are_split_and_paths_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert split_source("transformers:facebook/dinov2-base") == ("transformers", "facebook/dinov2-base")
    monkeypatch.chdir(tmp_path)
    assert absolute_model("transformers:local-dir:a/b") == f"transformers:local-dir:{tmp_path}/a/b"
    assert absolute_model("transformers:facebook/dinov2-base") == "transformers:facebook/dinov2-base"


def test_loading_is_silent_and_leaves_bars_and_messages_as_they_were(
    vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = transformers.utils.logging
    before = (bars.is_progress_bar_enabled(), huggingface_hub.utils.are_progress_bars_disabled())
    load_folder(vit)
    load_folder(vit, pretrained=False)
    assert capsys.readouterr() == ("", "")
    assert (bars.is_progress_bar_enabled(), huggingface_hub.utils.are_progress_bars_disabled()) == before
    assert logging.root.manager.disable == logging.NOTSET
