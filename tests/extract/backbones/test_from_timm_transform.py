"""The transform and the image size of timm models."""

from pathlib import Path
from typing import Any

import pytest
import timm
from timm.data import resolve_model_data_config

from tokenprobe.errors import InputError

from .kit import load, made_vit, pretrained_cfg, save


@pytest.mark.parametrize("size", [32, 64])
def test_the_transform_is_timms_with_the_size_the_model_was_built_with(size: int) -> None:
    transform = load("vit_tiny_patch16_224", {"img_size": size, "embed_dim": 12, "depth": 1, "num_heads": 2}).transform
    config = resolve_model_data_config(timm.create_model("vit_tiny_patch16_224"))
    assert transform.input_size == (size, size)
    for name in ("interpolation", "crop_pct", "crop_mode", "mean", "std"):
        assert getattr(transform, name) == config[name], name


def test_an_image_size_needs_no_argument_of_a_model_that_sees_any_size() -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}
    backbone = load("convnext_atto", arguments, image_size=(64, 96))
    assert backbone.transform.input_size == (64, 96)
    assert backbone.shapes[0].grid == (16, 24)
    assert backbone.weights_hash() == load("convnext_atto", arguments).weights_hash()


def test_a_model_that_does_not_keep_its_image_size_still_sees_the_size_it_was_built_with() -> None:
    assert load("efficientvit_m0", {"img_size": 64}).transform.input_size == (64, 64)


def test_mean_and_std_in_the_metadata_leave_scaling_and_normalisation_alone(tmp_path: Path) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", mean="[0.1, 0.2, 0.3]", std="[0.4, 0.5, 0.6]")
    transform = load(checkpoint=file).transform
    assert (transform.mean, transform.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (transform.input_size, transform.crop_mode, transform.crop_pct) == ((16, 16), "none", None)


@pytest.mark.parametrize("metadata", [{"mean": "[0.1, 0.2, 0.3]"}, {"std": "[0.1, 0.2, 0.3]"}, {"format": "pt"}])
def test_half_of_the_metadata_changes_nothing(tmp_path: Path, metadata: dict[str, Any]) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", **metadata)
    assert load(checkpoint=file).transform == load().transform


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ("0.1,0.2,0.3", "1,1,1"),
        ("0.5", "0.5"),
        ("[0.5, 0.5]", "[1.0, 1.0]"),
        ('["a", "b", "c"]', "[1.0, 1.0, 1.0]"),
        ("[0.5, 0.5, 0.5]", "[0.0, 0.0, 0.0]"),
    ],
)
def test_metadata_that_is_no_mean_and_std_is_refused(tmp_path: Path, mean: str, std: str) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", mean=mean, std=std)
    with pytest.raises(InputError, match=r"a\.safetensors' has (mean|std) '?"):
        load(checkpoint=file)


def test_an_image_size_said_twice_is_refused() -> None:
    message = (
        r"^image_size \(32, 32\) and the model argument img_size=16 both set the image size; give one of --image-size "
        "and --model-arg"
    )
    with pytest.raises(InputError, match=message):
        load(image_size=(32, 32))


def test_an_image_size_the_model_cannot_run_at_is_an_input_error() -> None:
    with pytest.raises(InputError, match="timm model 'hiera_tiny_224' "):
        load("hiera_tiny_224", {"img_size": 63})


SMALL = {"embed_dim": 12, "depth": 1, "num_heads": 2}


def test_without_the_name_of_weights_it_is_told_whose_preprocessing_was_taken(tmp_path: Path) -> None:
    """The user's weights may match the MAE's, whose mean differs from that of timm's first weights."""
    name = "vit_base_patch16_224"
    file = save(load(name, SMALL).module, tmp_path / "a.safetensors")
    taken = load(name, SMALL, checkpoint=file)
    assert taken.transform.mean == pretrained_cfg(name).mean == (0.5, 0.5, 0.5)
    (note,) = taken.notes
    assert note.startswith(
        "images are prepared as for vit_base_patch16_224.augreg2_in21k_ft_in1k (mean 0.5, deviation 0.5, bicubic); "
        "vit_base_patch16_224.bamboo, vit_base_patch16_224.dino, vit_base_patch16_224.mae differ, so name the weights"
    )
    named = load(f"{name}.mae", SMALL, checkpoint=file)
    assert named.transform.mean == pretrained_cfg(f"{name}.mae").mean == (0.485, 0.456, 0.406)
    assert named.weights_hash() == taken.weights_hash()
    assert list(named.notes) == list(load(name, SMALL).notes) == []


def test_where_all_weights_agree_or_the_file_says_it_nothing_is_told(tmp_path: Path) -> None:
    file = save(load("deit_tiny_patch16_224", SMALL).module, tmp_path / "a.safetensors")
    assert list(load("deit_tiny_patch16_224", SMALL, checkpoint=file).notes) == []
    model = load("vit_base_patch16_224", SMALL).module
    file = save(model, tmp_path / "b.safetensors", mean="[0.1, 0.2, 0.3]", std="[0.5, 0.6, 0.7]")
    assert list(load("vit_base_patch16_224", SMALL, checkpoint=file).notes) == []
