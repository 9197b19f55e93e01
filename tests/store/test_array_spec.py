"""Shapes, types and blocks of the arrays that a manifest declares."""

import pytest

from tokenprobe.store.array_spec import ArraySpec, array_spec, array_specs
from tokenprobe.store.quantize import token_type
from tokenprobe.testing.store_kit import make_contents


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


def test_arrays_come_in_one_order_however_the_manifest_came_about() -> None:
    contents = make_contents("int8")
    last = contents.part({"train": {"layer_03": ["patch_scale", "patch"]}}).manifest
    names = [spec.name for spec in array_specs(last.merged(contents.manifest))]
    assert names == sorted(names) == [spec.name for spec in array_specs(contents.manifest)]


def test_arrays_as_another_dtype_differ_in_the_type_of_their_tokens_alone() -> None:
    manifest = make_contents("float32").manifest
    half, same = (array_spec(manifest, "train", "layer_03", "patch", dtype=dtype) for dtype in ("float16", None))
    assert (half.row_bytes, same.row_bytes) == (60, 120)
    assert half.type is token_type("float16") and half.row == same.row
    assert array_spec(manifest, "train", "layer_03", "mean", dtype="float16").type is token_type("float32")


@pytest.mark.parametrize(
    ("n_images", "rows"),
    [(11, [range(4), range(4, 8), range(8, 11)]), (8, [range(4), range(4, 8)]), (1, [range(1)])],
)
def test_blocks_hold_every_row_once_and_the_last_what_is_left(n_images: int, rows: list[range]) -> None:
    spec = ArraySpec("train/layer_00/mean", 2, n_images, 4, (5,), token_type("float32"))
    assert [spec.rows_of(block) for block in range(spec.n_blocks)] == rows
    assert spec.n_bytes == 2 * n_images * 5 * 4
