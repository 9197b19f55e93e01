"""A store in words: every figure agrees with the files."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import zarr
from rich.console import Console

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store
from tokenprobe.store.audit import Audit, Cost, Spread
from tokenprobe.store.describe import audit_table, describe
from tokenprobe.store.manifest import Manifest
from tokenprobe.testing.store_kit import block_path, blocks, folder_of, make_contents, write, write_some


def shown(path: Path | str) -> dict[str, str]:
    """Return the lines of a description by their first word; those of splits by "SPLIT.WORD"."""
    lines, split = {}, ""
    for line in describe(open_store(path)):
        name, value = line[:14].rstrip(), line[15:]
        split = "" if not name.startswith(" ") and name not in ("train", "test") else split
        split = f"{name}." if name in ("train", "test") else split
        lines[split + name.strip() if name.startswith(" ") else name] = value
    return lines


@pytest.mark.parametrize(("suffix", "name"), [(".zarr", "Zarr"), (".h5", "HDF5")])
def test_an_extracted_store_is_described(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path, suffix: str, name: str
) -> None:
    out = Path(extract(tiny_config(layers="0,2", out=tmp_path / f"a{suffix}")))
    n_bytes = sum(file.stat().st_size for file in folder_of(out).rglob("*.*") if file.is_file())
    n_bytes -= sum(file.stat().st_size for file in (folder_of(out) / "journal.jsonl", out) if file.is_file())
    lines = shown(out)
    assert lines["store"] == f"{out}, {name}"
    assert lines["model"].startswith("timm:VisionTransformer (depth=3, embed_dim=12, img_size=16")
    assert lines["weights"] == f"sha256 {open_store(out).manifest.recipe.weights[:16]}"
    assert lines["pixels"] == "16 × 16, computed in float32"
    assert lines["layers"] == "0, 2 of 3"
    assert lines["tokens"] == "16 patch (4 × 4) + 1 prefix, 12 wide"
    assert (lines["prefix"], lines["dtype"], lines["rows"]) == ("cls", "float16", "shuffled, seed 0")
    assert lines["train"] == "60 images, 3 classes"
    assert lines["train.classes"] == "ant, bee, cat"
    assert lines["train.arrays"] == "mean, patch, prefix of layers 0, 2"
    assert lines["train.blocks"] == "9 of 7 images"
    assert lines["train.views"] == "1: the evaluation transform"
    assert lines["train.fingerprint"] == f"{open_store(out).manifest.fingerprint('train', 2)[:16]} (of layer 2)"
    assert lines["health"] == "complete: every file is there; probe verify reads and checks them"


def test_bytes_are_those_of_the_finished_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", make_contents())
    n_bytes = sum(file.stat().st_size for file in folder_of(path).rglob("*.h5"))
    assert 100_000 < n_bytes < 999_000
    assert shown(path)["bytes"] == f"{n_bytes / 1000:.0f} kB"


def test_dtypes_that_come_back_as_another_say_so(tmp_path: Path) -> None:
    lines = shown(write(tmp_path / "a.zarr", make_contents("int8")))
    assert lines["dtype"] == "int8, read as float16"
    assert lines["train.arrays"] == "mean, patch, patch_scale, prefix, prefix_scale of layers 0, 3"
    assert shown(write(tmp_path / "b.zarr", make_contents("bfloat16")))["dtype"] == "bfloat16, read as float32"
    assert shown(write(tmp_path / "c.zarr", make_contents("float32")))["dtype"] == "float32"


def test_views_are_described(tmp_path: Path) -> None:
    lines = shown(write(tmp_path / "a.zarr", make_contents()))
    assert lines["train.views"] == "2: the evaluation transform, then draws with seed=0"
    assert lines["test.views"] == "1: the evaluation transform"


def test_many_classes_layers_and_images_left_out_are_summed_up(tmp_path: Path) -> None:
    contents = make_contents()
    train = replace(
        contents.manifest.splits["train"],
        classes=[f"class {number}" for number in range(1000)],
        skipped=["a", "b"],
        layers={f"layer_{layer:02d}": ["mean"] for layer in (1, 2, 3, 10)} | {"layer_00": ["mean", "patch"]},
    )
    shapes = dict.fromkeys(train.layers, contents.manifest.layers["layer_00"])
    manifest = replace(contents.manifest, depth=11, splits={"train": train}, layers=shapes, complete=True)
    path = write_root(tmp_path / "a.zarr", manifest)
    lines = shown(path)
    assert lines["train"] == "11 images, 1,000 classes, 2 unreadable left out"
    assert lines["train.classes"].endswith("class 8, class 9, … and 990 more")
    assert [line[15:] for line in describe(open_store(path)) if line.startswith("  arrays")] == [
        "mean, patch of layer 0",
        "mean of layers 1, 2, 3, 10",
    ]


def write_root(path: Path, manifest: Manifest) -> Path:
    zarr.open_group(path, mode="w", attributes=manifest.to_json())
    return path


def test_names_do_not_act_on_the_terminal(tmp_path: Path) -> None:
    contents = make_contents()
    train = replace(contents.manifest.splits["train"], classes=["\x1b[31mred\n", "[bold]", "\u202e"])
    manifest = replace(contents.manifest, splits={"train": train}, dataset="folder:\x07", complete=True)
    lines = describe(open_store(write_root(tmp_path / "a.zarr", manifest)))
    assert all(line.isprintable() for line in lines)
    assert r"\x1b[31mred\n, [bold], \u202e" in "\n".join(lines)


def test_an_unfinished_store_says_what_is_missing(place: Callable[[str], Path]) -> None:
    contents = make_contents()
    first = [key for key in blocks(contents.manifest) if key.split == "test" or key.view == 0]
    path = write_some(place("part"), contents, first)
    block_path(path, "train/layer_03/mean", 0, 1).unlink()
    lines = shown(path)
    assert lines["train.unfinished"] == "layers 0, 3: 2 to 3 of 6 blocks are written"
    assert "test.unfinished" not in lines
    assert lines["health"].startswith("not complete: finished layers can be read; run the same probe extract to go on")


def test_a_store_that_lost_files_is_damaged(place: Callable[[str], Path]) -> None:
    path = write(place("whole"), make_contents())
    block_path(path, "train/layer_03/mean", 1, 2).unlink()
    lines = shown(path)
    assert lines["train.unfinished"] == "layer 3: 5 of 6 blocks are written"
    assert lines["health"].startswith("damaged: 1 of ")
    assert lines["health"].endswith("files are missing or cut short; probe verify names them")


def test_a_store_far_away_is_described_by_its_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_contents("float32"))
    (path / "journal.jsonl").unlink()
    lines = shown(f"file://{path}")
    assert lines["store"] == f"file://{path}, Zarr at an address: read by ranged requests"
    # 2 layers; 6 patches, 2 prefix tokens and a mean, 5 wide; 2 views of 11 images, and 3
    assert 2 * (6 + 2 + 1) * 5 * (2 * 11 + 3) * 4 == 9000
    assert lines["bytes"] == "9.00 kB when uncompressed"
    assert lines["health"] == "complete, according to its manifest"


def test_the_audit_is_a_table_that_fits_a_terminal() -> None:
    infinite = Spread(float("inf"), float("inf"))
    costs = [
        Cost(0, "float16", 0.5, infinite, infinite, 70000.0, overflows=True),
        Cost(0, "bfloat16", 0.5, Spread(0.00167, 0.0024), Spread(1.37e-6, 2.5e-6), 70000.0, overflows=False),
        Cost(11, "float16", 0.5, Spread(0, 0.125), Spread(0, 2.2e-16), 15.15, overflows=False),
    ]
    console = Console(width=80, record=True, file=StringIO())
    console.print(audit_table(Audit("train", 256, costs)))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert [row for row in rows if row] == [
        ["0", "7e+04", "float16", "0.50", "overflow", "overflow", "", ""],
        ["", "", "bfloat16", "0.50", "0.167%", "0.240%", "1.4e-06", "2.5e-06"],
        ["11", "15.2", "float16", "0.50", "0.000%", "12.500%", "0.0e+00", "2.2e-16"],
    ]
