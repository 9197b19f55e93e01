"""Choices of layers, the plan, the dry run and the free disk."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tokenprobe.errors import InputError, NoSpaceError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_timm import load_timm
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.plan import ChosenImages, Plan, make_plan, parse_layers
from tokenprobe.extract.rows import choose_rows

MakeConfig = Callable[..., ExtractConfig]


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def plan_of(config: ExtractConfig) -> Plan:
    backbone = load_timm(BackboneRequest("VisionTransformer", config.model_arg, None, False, config.seed))
    source = open_dataset(config.data)
    images = {}
    for split in config.split or source.splits:
        listed = source.images(split)
        rows = choose_rows(listed, set(), config.limit, shuffled=True, seed=config.seed)
        images[split] = ChosenImages(rows, min(len(listed.ids), config.limit or 10**9), listed.content, [])
    return make_plan(config, backbone, source, images, "float32")


def sizes_on_disk(out: Path) -> Counter[str]:
    """Bytes of the chunk files of each layer, over all splits."""
    sizes: Counter[str] = Counter()
    for file in out.glob("*/layer_*/*/c.*"):
        sizes[file.parts[-3]] += file.stat().st_size
    return sizes


def shown(lines: str) -> dict[str, str]:
    """Read "name      value" lines."""
    return {name.strip(): value for name, value in re.findall(r"^(.{10}) (.*)$", lines, re.MULTILINE)}


def for_people(n_bytes: int) -> str:
    return f"{n_bytes} B" if n_bytes < 1000 else f"{n_bytes / 1000:#.3g}".removesuffix(".") + " kB"


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("last2", [4, 5]),
        ("last6", [0, 1, 2, 3, 4, 5]),
        ("0", [0]),
        ("-1", [5]),
        ("5,0,-2", [0, 4, 5]),
        ("3,3,-3", [3]),
    ],
)
def test_layers_are_read(spec: str, layers: list[int]) -> None:
    assert parse_layers(spec, 6) == layers


@pytest.mark.parametrize("spec", ["some", "", "1,", "1-3", "last", "1.5", "lasttwo"])
def test_layers_of_no_known_form_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match=f"^layers '{spec}': expected all, lastN, or indices such as 0,5,-1$"):
        parse_layers(spec, 6)


@pytest.mark.parametrize(("spec", "got"), [("6", r"\[6\]"), ("0,-7,9", r"\[-7, 9\]"), ("last7", ""), ("last0", "none")])
def test_layers_the_backbone_does_not_have_are_refused(spec: str, got: str) -> None:
    with pytest.raises(InputError, match=f"^layers '{spec}': the backbone has layers 0 to 5; got {got}"):
        parse_layers(spec, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tokens": ["patch"]},
        {"tokens": ["prefix"], "dtype": "float32"},
        {"tokens": []},
        {"split": ["test"], "layers": "last2", "limit": 7},
        {"layers": "1", "views": 3},
    ],
    ids=str,
)
def test_planned_bytes_are_those_written(tiny_config: MakeConfig, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    plan = plan_of(config)
    planned = plan.layer_bytes()
    assert plan.missing_bytes(Path(config.out)) == sum(planned.values())
    out = extract(config)
    assert planned == sizes_on_disk(out)
    assert plan.missing_bytes(out) == 0
    assert plan.missing_bytes(out, overwrite=True) <= 0


def test_missing_bytes_are_what_extending_a_store_adds(tiny_config: MakeConfig) -> None:
    out = extract(tiny_config(layers="0", split=["test"]))
    before = sizes_on_disk(out).total()
    missing = plan_of(tiny_config()).missing_bytes(out)
    extract(tiny_config())
    assert missing == sizes_on_disk(out).total() - before


def test_missing_bytes_count_a_recorded_file_that_is_gone(tiny_config: MakeConfig) -> None:
    out = extract(tiny_config())
    chunk = next((out / "train/layer_01/patch").glob("c.*"))
    size = chunk.stat().st_size
    chunk.unlink()
    assert plan_of(tiny_config()).missing_bytes(out) == size


def test_a_small_split_has_eight_blocks_and_a_small_block_size_makes_more(tiny_config: MakeConfig) -> None:
    plan = plan_of(tiny_config(model_arg=tiny_config().model_arg | {"img_size": 256, "embed_dim": 96}, block_mib=1))
    # 64 × 64 tokens, 96 wide, two bytes each: 768 KiB an image, so one image to a block of 1 MiB.
    assert plan.manifest.splits["train"].block_rows == 1
    assert plan.manifest.splits["train"].n_blocks == 60
    assert 8 <= plan_of(tiny_config()).manifest.splits["train"].n_blocks < 16


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(9 * 10**12, 0, 2_340_000_000_000))
    assert not extract(tiny_config(dry_run=True)).exists()
    assert list(tmp_path.iterdir()) == []
    lines = shown(capsys.readouterr().out)
    sizes = sizes_on_disk(extract(tiny_config()))
    assert lines["model"] == "timm:VisionTransformer, 3 layers, float32"
    assert lines["pixels"].startswith("16 × 16, center crop 0.875, bicubic, mean 0.485 0.456 0.406, std 0.229 ")
    for split, n_images in (("train", 60), ("test", 24)):
        n_blocks = len(list((tmp_path / "tiny.zarr" / split / "layer_00" / "mean").glob("c.*")))
        assert lines[split] == f"{n_images} images in {n_blocks} blocks, 3 classes"
    assert lines["tokens"] == "16 patch (4 × 4) + 1 prefix, 12 wide"
    assert lines["dtype"] == "float16"
    assert len(set(sizes.values())) == 1
    assert lines["per layer"] == f"{for_people(sizes['layer_00'])}, 3 layers"
    assert lines["in all"] == lines["to write"] == for_people(sizes.total())
    assert lines["free"] == "2.34 TB"


def test_a_dry_run_tells_of_views(tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_config(views=3, view_scale=[0.25, 0.5], dry_run=True))
    lines = shown(capsys.readouterr().out)
    text = "3 of train: the above, then crops of 0.25 to 0.5 of the area, width / height 0.75 to 1.33, flipped or not"
    assert lines["views"] == text
    extract(tiny_config(dry_run=True))
    assert "views" not in shown(capsys.readouterr().out)


def test_more_views_miss_what_extending_a_store_adds(tiny_config: MakeConfig) -> None:
    out = extract(tiny_config())
    before = sizes_on_disk(out).total()
    missing = plan_of(tiny_config(views=3)).missing_bytes(out)
    extract(tiny_config(views=3))
    assert missing == sizes_on_disk(out).total() - before > 0


def test_a_dry_run_lists_layers_of_different_sizes_one_by_one(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16), "pretrained_cfg_overlay": {"input_size": (3, 32, 32)}}
    changes = {"model": "timm:convnext_atto", "model_arg": arguments, "split": ["test"], "limit": 8}
    extract(tiny_config(**changes, dry_run=True))
    lines = shown(capsys.readouterr().out)
    sizes = sizes_on_disk(extract(tiny_config(**changes)))
    assert len(set(sizes.values())) == 4
    assert {name: lines[name] for name in sizes} == {name: for_people(size) for name, size in sizes.items()}
    assert lines["in all"] == for_people(sizes.total())


def test_a_dry_run_leaves_a_store_as_it_is_and_says_how_much_is_missing(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract(tiny_config(split=["test"]))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    done = sizes_on_disk(out).total()
    extract(tiny_config(dry_run=True))
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    lines = shown(capsys.readouterr().out)
    extract(tiny_config())
    total = sizes_on_disk(out).total()
    assert lines["in all"] == for_people(total)
    assert lines["to write"] == for_people(total - done)


def test_a_dry_run_that_would_overwrite_counts_everything(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract(tiny_config())
    extract(tiny_config(dry_run=True, overwrite=True))
    assert shown(capsys.readouterr().out)["to write"] == for_people(sizes_on_disk(out).total())


def test_a_full_disk_is_noticed_before_any_work(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(plan_of(tiny_config()).layer_bytes().values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed - 1))
    out = Path(tiny_config().out)
    message = (
        rf"^the store needs {for_people(needed)} more and '.*tiny\.zarr' has {for_people(needed - 1)} free; "
        "extract fewer --layers or --split, or a --limit, or write to another disk$"
    )
    with pytest.raises(NoSpaceError, match=message):
        extract(tiny_config())
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed))
    assert extract(tiny_config()).exists()


def test_a_finished_store_needs_no_space(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(tiny_config())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 10**6, 0))
    extract(tiny_config())
    extract(tiny_config(overwrite=True))
    with pytest.raises(NoSpaceError, match=r"the store needs .* more"):
        extract(tiny_config(overwrite=True, dtype="float32"))
