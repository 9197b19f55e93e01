"""A store in numbers and names: every figure agrees with the files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.runtime.text import json_text
from tokenprobe.store import open_store
from tokenprobe.store.facts import facts
from tokenprobe.testing.store_kit import blocks, folder_of, make_contents, write, write_some


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_an_extracted_store_has_its_figures(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path, suffix: str
) -> None:
    out = Path(extract(tiny_config(layers="0,2", out=tmp_path / f"a{suffix}")))
    found = json.loads(json_text(facts(open_store(out))))
    manifest = open_store(out).manifest
    assert (found["store"], found["model"], found["weights"]) == (
        str(out),
        "timm:VisionTransformer",
        manifest.recipe.weights,
    )
    shape = {"grid": [4, 4], "dim": 12, "patches": 16, "prefix": 1, "embedding": 0}
    assert found["layers"] == {"0": shape, "2": shape} and found["depth"] == 3
    train = found["splits"]["train"]
    assert (train["images"], train["classes"], train["views"]) == (60, ["ant", "bee", "cat"], 1)
    assert train["arrays"] == {"0": ["mean", "patch", "prefix"], "2": ["mean", "patch", "prefix"]}
    assert train["blocks"] * train["block_rows"] >= 60 > (train["blocks"] - 1) * train["block_rows"]
    assert train["fingerprints"] == {str(layer): manifest.fingerprint("train", layer) for layer in (0, 2)}
    arrays = [f for f in folder_of(out).rglob("*") if f.is_file() and f.name not in ("journal.jsonl", ".lock")]
    declared = [file for file in arrays if file.name != "zarr.json"]
    assert (found["complete"], found["missing_files"], train["unfinished"]) == (True, 0, {})
    assert found["bytes"] == sum(file.stat().st_size for file in arrays if file != out / "zarr.json" and file != out)
    assert found["files"] == len(declared) + len([f for f in arrays if f.name == "zarr.json" and f.parent != out])
    assert found["last_extraction"]["n_images"] == 84 and found["last_extraction"]["seconds"] > 0


def test_what_is_missing_is_counted(place: Callable[[str], Path]) -> None:
    contents = make_contents()
    first = [key for key in blocks(contents.manifest) if key.split == "test" or key.view == 0]
    found = facts(open_store(write_some(place("part"), contents, first)))
    assert found["complete"] is False and found["missing_files"] > 0
    assert found["splits"]["train"]["unfinished"] == {
        "0": {"written": 3, "blocks": 6},
        "3": {"written": 3, "blocks": 6},
    }
    assert found["splits"]["test"]["unfinished"] == {}
    assert found["last_extraction"] is None


def test_a_store_far_away_has_no_files_to_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", make_contents("float32"))
    assert facts(open_store(f"file://{path}"))["files"] == facts(open_store(path))["files"]
    (path / "journal.jsonl").unlink()
    found = facts(open_store(f"file://{path}"))
    assert (found["bytes"], found["files"], found["missing_files"], found["last_extraction"]) == (None,) * 4
    assert found["uncompressed_bytes"] == 9000, "as in the test of its description"
