"""The parts of a manifest: impossible settings and contents are refused."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from tokenprobe.store.checked import UnfitError
from tokenprobe.store.layout import LayerShape
from tokenprobe.testing.store_kit import make_contents

from .test_manifest import RECIPE, TRAIN

SHAPES = {
    "layer_00": LayerShape((2, 2), 5, 1),
    "layer_11": LayerShape((2, 2), 5, 1, 7),
    "layer_12": LayerShape((2, 2), 5, 0),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_what_is_made_here_is_fine(dtype: str) -> None:
    manifest = make_contents(dtype).manifest
    manifest.recipe.check()
    for info in manifest.splits.values():
        info.check(manifest.layers, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; expected float16, bfloat16, float32, int8"),
        ({"transform": {}}, "transform.input_size is None; expected a list"),
        ({"transform": {"input_size": [224]}}, "transform.input_size is a list of 1; expected 2 values"),
        ({"transform": {"input_size": [224, 0]}}, r"transform.input_size\[1\] is 0; expected 1 to"),
    ],
)
def test_a_recipe_that_no_store_is_made_by_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitError, match=f"^{message}"):
        replace(RECIPE, **changes).check()


@pytest.mark.parametrize(
    ("layers", "dtype", "message"),
    [
        ({}, "float16", "it has no layers"),
        ({"layer_01": ["mean"]}, "float16", "'layer_01' is not a layer of the store"),
        ({"layer_00": []}, "float16", "arrays of layer_00 are none; expected some of mean, patch, prefix"),
        ({"layer_00": ["mean", "mean"]}, "float16", "arrays of layer_00 are mean, mean; expected"),
        ({"layer_00": ["../x"]}, "float16", "arrays of layer_00 are ../x; expected"),
        ({"layer_00": ["embedding"]}, "float16", "arrays of layer_00 are embedding; expected"),
        ({"layer_12": ["prefix"]}, "float16", "arrays of layer_12 are prefix; expected some of mean, patch$"),
        ({"layer_00": ["patch_scale"]}, "float16", "arrays of layer_00 are patch_scale; expected"),
        (
            {"layer_11": ["labels"]},
            "int8",
            "arrays of layer_11 are labels; expected some of embedding, mean, patch, patch_scale, prefix, prefix_s",
        ),
    ],
)
def test_layers_that_a_split_cannot_have_are_refused(layers: dict[str, list[str]], dtype: str, message: str) -> None:
    with pytest.raises(UnfitError, match=f"^{message}"):
        replace(TRAIN, layers=layers).check(SHAPES, dtype)


def test_an_image_of_more_values_than_anybody_stores_is_refused() -> None:
    shapes = {"layer_00": LayerShape((2**10, 2**10), 257, 1)}
    replace(TRAIN, layers={"layer_00": ["mean", "prefix"]}).check(shapes, "float16")
    with pytest.raises(
        UnfitError, match=r"^patch of layer_00 has 269484032 values per image; expected at most 268435456$"
    ):
        replace(TRAIN, layers={"layer_00": ["mean", "patch"]}).check(shapes, "float16")


def test_what_decides_bytes_is_text_that_is_made_once() -> None:
    assert json.loads(RECIPE.text) == asdict(RECIPE)
    assert RECIPE.text is RECIPE.text and TRAIN.text is TRAIN.text
    decides = {key: value for key, value in asdict(TRAIN).items() if key not in ("layers", "views", "augmentation")}
    assert TRAIN.identity == json.loads(TRAIN.text) == decides
