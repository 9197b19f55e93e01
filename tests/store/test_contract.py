"""Shapes, blocks and types of arrays, and the files that a manifest declares."""

from pathlib import Path

import pytest

from tokenprobe.store.contract import array_spec
from tokenprobe.store.formats import store_files

from .kit import make_contents


@pytest.mark.parametrize(
    ("dtype", "kind", "row", "row_bytes"),
    [
        ("float16", "patch", (6, 5), 60),
        ("bfloat16", "prefix", (2, 5), 20),
        ("float32", "patch", (6, 5), 120),
        ("int8", "patch", (6, 5), 30),
        ("int8", "patch_scale", (6,), 12),
        ("int8", "prefix_scale", (2,), 4),
        ("int8", "mean", (5,), 20),
    ],
)
def test_an_array_has_the_shape_and_bytes_of_its_kind(
    dtype: str, kind: str, row: tuple[int, ...], row_bytes: int
) -> None:
    spec = array_spec(make_contents(dtype).manifest, "train", "layer_03", kind)
    assert spec.name == f"train/layer_03/{kind}"
    assert (spec.n_views, spec.n_images, spec.block_rows, spec.n_blocks) == (2, 11, 4, 3)
    assert (spec.row, spec.row_bytes, spec.block_bytes) == (row, row_bytes, 4 * row_bytes)
    assert spec.is_bfloat16 == (dtype == "bfloat16")


def test_arrays_come_in_one_order_however_the_manifest_came_about(tmp_path: Path) -> None:
    contents = make_contents("int8")
    last = contents.part({"train": {"layer_03": ["patch_scale", "patch"]}}).manifest
    files = store_files(tmp_path / "s.zarr")
    names = [spec.name for spec in files.specs(last.merged(contents.manifest))]
    assert names == sorted(names) == [spec.name for spec in files.specs(contents.manifest)]


def test_int8_declares_channels_of_tokens_and_others_do_not(tmp_path: Path) -> None:
    files = store_files(tmp_path / "s.zarr")
    rows = {f"{split}/{name}" for split in ("train", "test") for name in ("ids", "labels")}
    assert set(files.whole_arrays(make_contents("bfloat16").manifest)) == rows
    assert set(files.whole_arrays(make_contents("int8").manifest)) == rows | {
        f"{split}/layer_{layer}/{kind}_channels"
        for split in ("train", "test")
        for layer in ("00", "03")
        for kind in ("patch", "prefix")
    }


def test_both_formats_declare_as_many_block_files(tmp_path: Path) -> None:
    manifest = make_contents("int8").manifest
    n_files = 2 * 5 * (2 * 3 + 1)  # layers, arrays, (views × blocks of train + one of test)
    for name in ("s.zarr", "s.h5"):
        files = store_files(tmp_path / name)
        blocks = [block for spec in files.specs(manifest) for block in files.block_names(spec)]
        assert len(blocks) == len(set(blocks)) == n_files
        assert set(blocks) < files.declared(manifest)
