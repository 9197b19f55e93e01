"""A store in words: every figure is the one in the files."""

from collections.abc import Callable
from pathlib import Path

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store
from tokenprobe.store.describe import describe

from .kit import blocks, folder_of, make_contents, write, write_some


def test_an_extracted_store_is_described(
    tiny_config: Callable[..., ExtractConfig], place: Callable[[str], Path], suffix: str
) -> None:
    out = extract(tiny_config(layers="0,2", out=place("s")))
    files = [file for file in folder_of(out).rglob("*") if file.is_file()]
    n_bytes = sum(file.stat().st_size for file in files if file.name not in ("journal.jsonl", ".lock"))
    n_bytes -= (out / "zarr.json").stat().st_size if suffix == ".zarr" else 0
    shown = dict(line.split(maxsplit=1) for line in describe(open_store(out)))
    assert shown["model"].startswith("timm:VisionTransformer (depth=3, embed_dim=12, img_size=16")
    assert shown["pixels"] == "16 × 16, computed in float32"
    assert shown["layers"] == "0, 2 of 3"
    assert shown["tokens"] == "16 patch (4 × 4) + 1 prefix, 12 wide"
    assert (shown["prefix"], shown["dtype"], shown["rows"]) == ("cls", "float16", "shuffled, seed 0")
    assert shown["train"].startswith("60 images, 3 classes, 9 blocks of 7; fingerprint of layer_02 ")
    assert shown["bytes"] == f"{n_bytes:,}"
    assert shown["health"] == "complete"


def test_views_dtype_and_what_is_not_finished_are_named(place: Callable[[str], Path]) -> None:
    contents, path = make_contents("int8"), place("s")
    first = contents.part({"train": {"layer_00": ["mean", "patch", "patch_scale"]}})
    write(path, first)
    shown = dict(line.split(maxsplit=1) for line in describe(open_store(path)))
    assert (shown["dtype"], shown["health"]) == ("int8", "complete")
    assert shown["train"].startswith("11 images, 2 views, 3 classes, 3 blocks of 4; fingerprint of layer_00 ")
    write_some(path, contents, [key for key in blocks(contents.manifest) if key.split == "test"])
    shown = dict(line.split(maxsplit=1) for line in describe(open_store(path)))
    assert shown["health"] == "not complete"
    assert "; not finished: layers 0, 3;" in shown["train"]  # layer 0 is to have prefix tokens too
    assert "not finished" not in shown["test"]
    assert shown["test"].startswith("3 images, 3 classes, 1 blocks of 4; fingerprint of layer_03 ")


def test_images_left_out_are_counted(place: Callable[[str], Path]) -> None:
    contents = make_contents().part({"train": {"layer_00": ["mean"]}}, skipped=["a.png", "b.png"])
    shown = "\n".join(describe(open_store(write(place("s"), contents))))
    assert ", 2 unreadable left out;" in shown
