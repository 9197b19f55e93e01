"""The files that a manifest declares, in either format."""

from pathlib import Path

from tokenprobe.store.array_spec import array_specs
from tokenprobe.store.formats import store_files
from tokenprobe.testing.store_kit import make_contents


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
        blocks = [block for spec in array_specs(manifest) for block in files.block_names(spec)]
        assert len(blocks) == len(set(blocks)) == n_files
        assert set(blocks) < files.declared(manifest)
