"""Errors name settings that are wrong by themselves, and nothing is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from tokenprobe.errors import InputError, StoreError
from tokenprobe.extract import extract
from tokenprobe.extract.check import check_config
from tokenprobe.store import open_store
from tokenprobe.testing.store_kit import make_contents, tree, write

from ..conftest import TINY_VIT
from .kit import MakeConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float61"}, "^unknown dtype 'float61'; known: float16, bfloat16, float32, int8$"),
        ({"row_order": "random"}, "^unknown row_order 'random'; known: shuffled, dataset$"),
        ({"amp": "on"}, "^unknown amp 'on'; known: .*auto"),
        ({"decode": "faster"}, "^unknown decode 'faster'; known: fast, exact$"),
        ({"tokens": ["patches"]}, "^unknown tokens 'patches'; known: patch, prefix$"),
        ({"batch_size": 0}, "^batch_size 0: expected at least 1$"),
        ({"block_mib": -1}, "^block_mib -1: expected at least 1$"),
        ({"limit": 0}, "^limit 0: expected at least 1$"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed -1"),
        ({"views": 0}, "^views 0: expected at least 1$"),
        ({"image_size": [0]}, r"^image_size \[0\]: expected a side in pixels, or height and width$"),
        ({"image_size": [16, 16, 3]}, r"^image_size \[16, 16, 3\]: expected a side"),
        (
            {"allow_missing": ["norm"]},
            r"^allow_missing \['norm'\] without a checkpoint; give --checkpoint FILE with it$",
        ),
        ({"checkpoint_key": "ema"}, "^checkpoint_key ema without a checkpoint; give --checkpoint FILE with it$"),
        ({"checkpoint_grid": [4]}, r"^checkpoint_grid \[4\] without a checkpoint; give --checkpoint FILE with it$"),
        ({"checkpoint_grid": [0, 4]}, r"^checkpoint_grid \[0, 4\]: expected a side in patches, or height and width$"),
        ({"view_scale": [0.5]}, r"^view_scale \[0\.5\]: expected two numbers, 0 < smallest <= largest <= 1$"),
        ({"view_scale": [0.0, 1.0]}, "^view_scale .*: expected two numbers, 0 < "),
        ({"view_scale": [0.5, 1.5]}, "^view_scale .*: expected two numbers, 0 < "),
        ({"view_ratio": [2.0, 1.0]}, "^view_ratio .* <= 1000$"),
        ({"device": "gpu"}, "^unknown device 'gpu'; expected auto, cpu, cuda or cuda:N$"),
        ({"device": "meta"}, "device 'meta'"),
        ({"layers": "7"}, "^unknown layer of the backbone '7'; known: 0, 1, 2$"),
        ({"split": ["tset"]}, "^unknown split of 'folder:.*' 'tset'; known: test, train$"),
        ({"model": "timm:vit_tiny_patch16_2244"}, "^unknown timm model 'vit_tiny_patch16_2244'; known: vit_tiny_"),
        ({"model": "hubb:x"}, "^unknown backbone source 'hubb'; known: hub, timm, open_clip, transformers, python$"),
        ({"model_arg": TINY_VIT | {"nonsense": 1}}, "does not take .*'nonsense'"),
        ({"no_pretrained": False}, "has no published weights; give --checkpoint or --no-pretrained"),
        ({"data": "fodler:x"}, "^unknown data source 'fodler'; known: folder"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_are_named_and_nothing_is_written(
    tiny_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extract(tiny_config(**changes))
    assert not (tmp_path / "tiny.zarr").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_something_that_is_no_store_is_left_alone(tiny_config: MakeConfig, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "tiny.zarr").mkdir()
        (tmp_path / "tiny.zarr" / "thesis.tex").write_text("mine")
    else:
        (tmp_path / "tiny.zarr").write_text("mine")
    with pytest.raises(StoreError, match=r"tiny\.zarr' exists and is not a token store; give another path$"):
        extract(tiny_config(overwrite=True))
    path = tmp_path / "tiny.zarr"
    assert (path / "thesis.tex" if kind == "folder" else path).read_text() == "mine"


def test_a_store_that_lost_its_journal_is_refused_before_any_model_is_loaded(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    out = write(tmp_path / "tiny.zarr", make_contents())
    (out / "journal.jsonl").unlink()
    with pytest.raises(StoreError, match="has lost its journal"):
        check_config(tiny_config(model="timm:no such model", split=["test"]))
    check_config(tiny_config(model="timm:no such model", overwrite=True))


@pytest.mark.parametrize("value", [nn.ReLU, {1, 2}, float("inf"), [b"x"], {"deep": {1: 2, "a": 3}}], ids=str)
def test_arguments_that_the_store_cannot_record_are_refused_and_nothing_is_emptied(
    tiny_config: MakeConfig, tmp_path: Path, value: object
) -> None:
    out = write(tmp_path / "tiny.zarr", make_contents())
    before = tree(out)
    config = tiny_config(out=out, overwrite=True, model_arg=TINY_VIT | {"act_layer": value})
    with pytest.raises(InputError, match=r"^model_arg act_layer=.*: expected finite numbers, text, true, false, none,"):
        extract(config)
    assert tree(out) == before


def test_numbers_of_numpy_are_arguments(tiny_config: MakeConfig) -> None:
    out = extract(tiny_config(model_arg=TINY_VIT | {"mlp_ratio": np.float32(2)}, layers="0", split=["test"], limit=2))
    assert open_store(out).manifest.recipe.model_args == TINY_VIT | {"mlp_ratio": 2.0}
