"""Exported files, as numpy and safetensors read them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tokenprobe.errors import InputError
from tokenprobe.store import open_store, shards
from tokenprobe.store.export import export_store, exported_bytes, select
from tokenprobe.testing.store_kit import BLOCK, DTYPES, ROWS, VIEWS, Contents, make_contents, write

READ: dict[str, Callable[[Path], torch.Tensor]] = {
    "npy": lambda path: torch.from_numpy(np.load(path)),
    "safetensors": lambda path: safetensors.torch.load_file(path)[path.parts[-3]],
}
AS_NPY = {"float16": "float16", "bfloat16": "float32", "float32": "float32", "int8": "float16"}


def exported(tmp_path: Path, contents: Contents, form: str, *, suffix: str = ".zarr", **chosen: Any) -> Path:
    """Write a store, and export it; return the new folder."""
    store = open_store(write(tmp_path / f"a{suffix}", contents))
    out = tmp_path / "out"
    export_store(store, out, form, select(store, form, **chosen))
    return out


def view_of(out: Path, array: str, view: int, form: str) -> torch.Tensor:
    """Put the files of a view together, in the order of their names."""
    return torch.cat([READ[form](path) for path in sorted((out / array / f"view_{view}").glob(f"*.{form}"))])


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_array_comes_back_as_the_reader_gives_it(tmp_path: Path, suffix: str, dtype: str, form: str) -> None:
    contents = make_contents(dtype)
    out = exported(tmp_path, contents, form, suffix=suffix)
    written = AS_NPY[dtype] if form == "npy" else dtype.replace("int8", "float16")
    reader = open_store(tmp_path / f"a{suffix}")
    for name, values in contents.returned.items():
        split, layer, kind = name.split("/")
        for view in range(VIEWS[split]):
            if dtype == "int8":  # the reader computes in float32; `values` are rounded from float64
                values[view] = reader[split].tokens(int(layer[-2:]), view=view, kind=kind)
            found = view_of(out, name, view, form)
            assert found.dtype == (torch.float32 if kind == "mean" else getattr(torch, written))
            np.testing.assert_array_equal(found.float().numpy(), values[view].astype(np.float32))
    for split in VIEWS:
        np.testing.assert_array_equal(np.load(out / split / "labels.npy"), contents.stored[f"{split}/labels"])
        assert json.loads((out / split / "ids.json").read_text()) == contents.ids(split)


@pytest.mark.parametrize(
    ("stored", "asked", "form"),
    [
        ("float16", "float32", "npy"),
        ("float32", "float16", "npy"),
        ("bfloat16", "float16", "npy"),
        ("float16", "bfloat16", "safetensors"),
        ("float32", "bfloat16", "safetensors"),
        ("bfloat16", "float32", "safetensors"),
    ],
)
def test_another_dtype_is_torchs_rounding(tmp_path: Path, stored: str, asked: str, form: str) -> None:
    contents = make_contents(stored)
    out = exported(tmp_path, contents, form, dtype=asked)
    for kind in ("patch", "prefix", "mean"):
        values = torch.from_numpy(contents.returned[f"train/layer_03/{kind}"][1])
        expected = values if kind == "mean" else values.to(getattr(torch, asked))
        found = view_of(out, f"train/layer_03/{kind}", 1, form)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_int8_is_not_rounded_twice(tmp_path: Path, asked: str) -> None:
    contents = make_contents("int8")
    out = exported(tmp_path, contents, "safetensors", dtype=asked)
    name = "train/layer_00/patch"
    mean, deviation = contents.stored[f"{name}_channels"].astype(np.float64)
    scale = contents.stored[f"{name}_scale"][0].astype(np.float64)
    expected = torch.from_numpy(contents.stored[name][0] * scale[..., None] * deviation + mean)
    found = view_of(out, name, 0, "safetensors").double()
    # A few roundings of float32, and for bfloat16 one rounding of its own.
    eps = float(torch.finfo(getattr(torch, asked)).eps)
    assert ((found - expected).abs() <= eps * expected.abs() / 2 + 1e-5).all()


def test_files_are_blocks_and_say_so(tmp_path: Path) -> None:
    contents = make_contents("bfloat16")
    out = exported(tmp_path, contents, "safetensors", layers="3", splits=["train"], tokens=["patch", "mean"])
    about = json.loads((out / "manifest.json").read_text())
    assert about["form"] == "safetensors"
    assert about["arrays"] == {
        "train/layer_03/mean": {"dtype": "float32", "shape": [2, 11, *ROWS["mean"]], "rows_per_file": BLOCK},
        "train/layer_03/patch": {"dtype": "bfloat16", "shape": [2, 11, *ROWS["patch"]], "rows_per_file": BLOCK},
    }
    assert about["store"] == open_store(tmp_path / "a.zarr").manifest.to_json()
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {"manifest.json", "train/labels.npy", "train/ids.json"} | {
        f"train/layer_03/{kind}/view_{view}/0000{block}.safetensors"
        for kind in ("mean", "patch") for view in (0, 1) for block in (0, 1, 2)
    }  # fmt: skip
    assert len(READ["safetensors"](out / "train/layer_03/patch/view_0/00002.safetensors")) == 11 - 2 * BLOCK


def test_safetensors_are_laid_out_as_the_library_lays_them_out(tmp_path: Path) -> None:
    out = exported(tmp_path, make_contents("bfloat16"), "safetensors")
    for path in out.rglob("*.safetensors"):
        assert path.read_bytes() == safetensors.torch.save(safetensors.torch.load_file(path))


@pytest.mark.parametrize("form", READ)
def test_progress_and_memory_go_by_pieces(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(write(tmp_path / "a.h5", make_contents()))
    chosen = select(store, form)
    export_store(store, tmp_path / "whole", form, chosen)
    monkeypatch.setattr(shards, "PIECE_BYTES", 100)
    counted: list[int] = []
    export_store(store, tmp_path / "pieces", form, chosen, counted.append)
    assert max(counted) <= 100
    assert sum(counted) == exported_bytes(store, chosen)
    for path in (tmp_path / "whole").rglob(f"*.{form}"):
        assert path.read_bytes() == (tmp_path / "pieces" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_a_value_that_overflows_is_an_error_that_names_layer_and_image(tmp_path: Path) -> None:
    contents = make_contents("float32")
    contents.stored["train/layer_03/patch"][1, 6, 2, 1] = 7e4
    store = open_store(write(tmp_path / "a.zarr", contents))
    with pytest.raises(
        InputError,
        match="a token of layer_03, image 'train/6' of split 'train', does not fit float16; export with --dtype float",
    ):
        export_store(store, tmp_path / "out", "npy", select(store, "npy", dtype="float16"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
