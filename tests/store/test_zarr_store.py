"""Zarr stores pass the tests of every format, and zarr-python can read them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.array_spec import array_spec
from tokenprobe.store.zarr_store import ZarrFiles
from tokenprobe.testing.store_kit import BLOCK, block_path, make_contents, write
from tokenprobe.testing.stores import StoreConformance


class TestZarr(StoreConformance):
    suffix = ".zarr"

    @contextmanager
    def library(self, path: Path) -> Iterator[Mapping[str, Any]]:
        opened: Any = zarr.open(path, mode="r")
        yield opened

    def attributes(self, opened: Any) -> dict[str, Any]:
        return dict(opened.attrs)

    def make_foreign(self, path: Path) -> None:
        zarr.create_group(path, attributes={"format": "OME"}).create_array("x", shape=(2,), dtype="f4")[:] = 1


def test_every_group_and_array_opens_with_named_dimensions_and_nothing_compressed(tmp_path: Path) -> None:
    group: Any = zarr.open_group(write(tmp_path / "s", make_contents("int8")), mode="r")
    assert sorted(group["train"].group_keys()) == ["layer_00", "layer_03"]
    assert sorted(group["train"].array_keys()) == ["ids", "labels"]
    dimensions = {
        "patch": ("view", "image", "token", "channel"),
        "prefix": ("view", "image", "token", "channel"),
        "mean": ("view", "image", "channel"),
        "patch_scale": ("view", "image", "token"),
        "patch_channels": ("statistic", "channel"),
    }
    for kind, names in dimensions.items():
        array = group[f"train/layer_03/{kind}"]
        assert array.metadata.dimension_names == names
        assert array.compressors == ()
        assert array.chunks == ((2, 5) if "channels" in kind else (1, BLOCK, *array.shape[2:]))


def test_chunk_files_have_zarrs_own_names(tmp_path: Path) -> None:
    path = write(tmp_path / "s", make_contents("int8"))
    store = open_store(path)
    for kind in ("patch", "prefix", "mean", "patch_scale"):
        spec = array_spec(store.manifest, "train", "layer_03", kind)
        array = zarr.open_array(store.path, path=spec.name, mode="r")
        for view, block in ((0, 0), (0, 2), (3, 10)):
            key = array.metadata.encode_chunk_key((view, block, *(0 for _ in array.shape[2:])))
            assert ZarrFiles(path).block_name(spec, view, block) == f"train/layer_03/{kind}/{key}"


def test_the_padding_of_the_last_block_is_the_fill_value(tmp_path: Path) -> None:
    contents = make_contents("float32")
    path = write(tmp_path / "s", contents)
    last = np.fromfile(block_path(path, "train/layer_00/patch", 0, 2), np.float32).reshape(BLOCK, 6, 5)
    np.testing.assert_array_equal(last[:3], contents.stored["train/layer_00/patch"][0, 8:])
    assert np.isnan(last[3:]).all()


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


def test_the_root_is_json_that_any_reader_understands(tmp_path: Path) -> None:
    path = write(tmp_path / "s", make_contents())
    root = json.loads((path / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    assert root["attributes"]["layers"]["layer_03"] == {"grid": [2, 3], "dim": 5, "n_prefix": 2, "embedding": 0}
    assert root["attributes"]["splits"]["train"]["n_images"] == 11


@pytest.mark.parametrize("lost", ["labels/c.0", "labels/zarr.json", "ids/c.0"])
def test_labels_and_ids_that_are_not_there_are_not_taken_for_zeros(tmp_path: Path, lost: str) -> None:
    split = open_store(write(tmp_path / "s", make_contents()))["train"]
    (Path(split.store.path) / "train" / lost).unlink()
    name = lost.partition("/")[0]
    with pytest.raises(StoreError, match=f"train/{name}' is not complete; run the same probe extract again"):
        _ = getattr(split, name)


def test_small_arrays_whose_chunk_is_gone_are_nothing_to_zarr(tmp_path: Path) -> None:
    path = write(tmp_path / "s", make_contents("int8"))
    for name, wanted in (("labels/c.0", -1), ("ids/c.0", ""), ("layer_00/patch_channels/c.0.0", np.nan)):
        (path / "train" / name).unlink()
        shown = zarr.open_array(path, path=f"train/{name.rpartition('/')[0]}", mode="r")[...]
        np.testing.assert_array_equal(shown, np.full_like(shown, wanted))
