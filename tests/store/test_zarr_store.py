"""The bytes on disk, as zarr-python and plain json see them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tokenprobe.errors import StoreError
from tokenprobe.store import Store, open_store
from tokenprobe.store.zarr_store import ZarrFiles, array_dtype

N, BLOCK = 10, 4


@pytest.fixture(scope="module")
def tokens() -> dict[str, Any]:
    """[split][layer][kind], (n, …) float64."""
    rng = np.random.default_rng(0)
    shapes = {"patch": (6, 5), "prefix": (2, 5), "mean": (5,)}
    return {
        split: {layer: {kind: rng.standard_normal((n, *row)) for kind, row in shapes.items()} for layer in (0, 11)}
        for split, n in (("train", N), ("test", 3))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For stores that are written once: every test reads them, none touches them."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def make(folder: Path, tokens: dict[str, Any], write_store: Callable[..., Store]) -> Callable[[str], Store]:
    """Give a store of `tokens` in a dtype."""

    def make_store(dtype: str) -> Store:
        if (folder / dtype).exists():
            return open_store(folder / dtype)
        stored = {
            split: {
                layer: {kind: typed(kind, v, dtype) for kind, v in kinds.items()} for layer, kinds in layers.items()
            }
            for split, layers in tokens.items()
        }
        labels = {"train": np.arange(N) % 3, "test": np.zeros(3, int)}
        return write_store(folder / dtype, stored, labels, grid=(2, 3), block_rows=BLOCK, dtype=dtype)

    return make_store


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zarr_shows_the_numbers_types_and_shapes_that_were_written(
    make: Callable[[str], Store], tokens: dict[str, Any], dtype: str
) -> None:
    store = make(dtype)
    for split, of_split in tokens.items():
        for layer, kinds in of_split.items():
            for kind, values in kinds.items():
                array = zarr.open_array(store.path, path=f"{split}/layer_{layer:02d}/{kind}", mode="r")
                np.testing.assert_array_equal(array[:], typed(kind, values, dtype)[None], strict=True)
                assert array_dtype(kind, dtype) == array.dtype


def test_zarr_shows_labels_and_ids_even_where_all_are_zero(make: Callable[[str], Store]) -> None:
    group = zarr.open_group(make("float16").path, mode="r")
    for split, labels in (("train", np.arange(N) % 3), ("test", np.zeros(3))):
        np.testing.assert_array_equal(group[f"{split}/labels"][:], labels.astype(np.int64), strict=True)
        assert group[f"{split}/ids"][:].tolist() == [f"{split}/{i}" for i in range(len(labels))]
        assert (group.store_path.store.root / split / "labels" / "c.0").stat().st_size == 8 * len(labels)


def test_ids_of_any_length_and_script_come_back(tmp_path: Path) -> None:
    files = ZarrFiles(tmp_path)
    ids = ["", "a/b c.png", "Käfer/蜂.png", "x" * 1000, "\n"]
    files.write_rows("train", np.array([5, -1, 2**40, 0, 0]), ids)
    assert files.read_rows("train", "ids").tolist() == ids
    np.testing.assert_array_equal(files.read_rows("train", "labels"), [5, -1, 2**40, 0, 0])
    assert zarr.open_array(tmp_path, path="train/ids", mode="r")[:].tolist() == ids
    assert set(files.row_files("train")) == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("c.*")}


def test_every_group_and_array_opens_in_zarr_with_named_dimensions_and_nothing_compressed(
    make: Callable[[str], Store],
) -> None:
    group = zarr.open_group(make("float16").path, mode="r")
    assert sorted(group["train"].group_keys()) == ["layer_00", "layer_11"]
    patch, mean = group["train/layer_11/patch"], group["train/layer_11/mean"]
    assert patch.metadata.dimension_names == ("view", "image", "token", "channel")
    assert mean.metadata.dimension_names == ("view", "image", "channel")
    assert (patch.chunks, mean.chunks) == ((1, BLOCK, 6, 5), (1, BLOCK, 5))
    assert patch.compressors == mean.compressors == ()
    assert np.isnan(patch.fill_value) and np.isnan(mean.fill_value)


def test_chunk_files_have_zarrs_own_names(make: Callable[[str], Store]) -> None:
    store = make("float16")
    for kind in ("patch", "prefix", "mean"):
        array = zarr.open_array(store.path, path=f"train/layer_11/{kind}", mode="r")
        for view, block in ((0, 0), (0, 2), (3, 10)):
            key = array.metadata.encode_chunk_key((view, block, *(0 for _ in array.shape[2:])))
            assert store.files.chunk_name("train", "layer_11", kind, view, block) == f"train/layer_11/{kind}/{key}"


def test_the_declared_token_files_are_the_chunk_files_there_are(make: Callable[[str], Store]) -> None:
    store = make("float16")
    declared = list(store.files.token_files(store.manifest))
    assert sorted(declared) == sorted(
        str(path.relative_to(store.path)) for path in store.path.glob("*/layer_*/*/c.*") if path.is_file()
    )
    assert len(list(store.files.token_files(replace(store.manifest, views=3)))) == 3 * len(declared)


def test_the_padding_of_the_last_block_is_nan_and_invisible(
    make: Callable[[str], Store], tokens: dict[str, Any]
) -> None:
    store = make("float32")
    last = np.fromfile(store.path / "train/layer_00/patch/c.0.2.0.0", np.float32).reshape(BLOCK, 6, 5)
    np.testing.assert_array_equal(last[:2], tokens["train"][0]["patch"][8:].astype(np.float32))
    assert np.isnan(last[2:]).all()
    assert not np.isnan(zarr.open_array(store.path, path="train/layer_00/patch", mode="r")[:]).any()


def test_a_chunk_that_is_gone_is_nan_to_zarr_and_an_error_to_us(
    make: Callable[[str], Store], tokens: dict[str, Any], tmp_path: Path
) -> None:
    store = open_store(shutil.copytree(make("float16").path, tmp_path / "copy"))
    gone = store.path / "train/layer_00/mean/c.0.1.0"
    gone.unlink()
    shown = zarr.open_array(store.path, path="train/layer_00/mean", mode="r")[0]
    assert np.isnan(shown[4:8]).all()
    np.testing.assert_array_equal(shown[[0, 3, 8, 9]], tokens["train"][0]["mean"][[0, 3, 8, 9]].astype(np.float32))
    with pytest.raises(StoreError, match=f"block file '{gone}' is not there; run the same probe extract again"):
        open_store(store.path)["train"].tokens(0, [0, 5], kind="mean")


def test_the_root_is_a_zarr_group_whose_attributes_are_the_manifest(make: Callable[[str], Store]) -> None:
    store = make("float16")
    root = json.loads((store.path / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    assert zarr.open_group(store.path, mode="r").attrs.asdict() == root["attributes"]
    assert root["attributes"]["complete"] is True
    assert root["attributes"]["layers"]["layer_11"] == {"grid": [2, 3], "dim": 5, "n_prefix": 2}
    assert root["attributes"]["splits"]["train"]["n_images"] == N


@pytest.mark.parametrize("root", [None, "[]", "3", "{}", '{"attributes": {}}', '{"attributes": null}'])
def test_what_has_no_manifest_is_not_a_store(tmp_path: Path, root: str | None) -> None:
    if root is not None:
        (tmp_path / "zarr.json").write_text(root)
    assert not ZarrFiles(tmp_path).exists()
    message = f"{str(tmp_path)!r} is not a token store: it has no manifest; make one with probe extract"
    with pytest.raises(StoreError, match=message):
        ZarrFiles(tmp_path).read_manifest()


def test_another_zarr_group_with_a_format_attribute_is_not_a_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "images.zarr", attributes={"format": "OME", "authors": ["us"]})
    assert not ZarrFiles(tmp_path / "images.zarr").exists()


@pytest.mark.parametrize("data", [b"", b'{"attributes": {"form', b"\xff\xfe\x00"])
def test_a_damaged_root_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(data)
    for call in (ZarrFiles(tmp_path).exists, ZarrFiles(tmp_path).read_manifest):
        with pytest.raises(StoreError, match=f"'{tmp_path / 'zarr.json'}' is damaged \\(.*; restore it"):
            call()


def typed(kind: str, values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(np.float32 if kind == "mean" else dtype)
