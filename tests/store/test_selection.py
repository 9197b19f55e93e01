"""A selection names splits, layers, arrays and a dtype, and returns the arrays to write."""

from dataclasses import replace

from tokenprobe.store.array_spec import array_spec
from tokenprobe.store.quantize import token_type
from tokenprobe.store.selection import Selection
from tokenprobe.testing.store_kit import make_contents

CHOSEN = Selection({"train": {"layer_03": ["patch", "mean"]}, "test": {"layer_00": ["mean"]}}, "float32")


def test_splits_keep_the_order_asked_and_layers_are_those_of_any_split() -> None:
    assert CHOSEN.splits == ["train", "test"]
    assert CHOSEN.layers == {"layer_00", "layer_03"}


def test_arrays_are_those_of_the_store_in_the_dtype_written_sorted_by_name() -> None:
    manifest = make_contents("float16").manifest
    specs = CHOSEN.specs(manifest)
    assert [spec.name for spec in specs] == ["test/layer_00/mean", "train/layer_03/mean", "train/layer_03/patch"]
    assert {spec.type for spec in specs} == {token_type("float32")}
    stored = array_spec(manifest, "train", "layer_03", "patch")
    assert specs[2] == replace(stored, type=token_type("float32"))
    assert replace(CHOSEN, dtype="float16").specs(manifest)[2] == stored
