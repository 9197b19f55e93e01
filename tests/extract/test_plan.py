"""Choices of layers, the plan and the free disk."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.errors import NoSpaceError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_timm import load_timm
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.plan import ChosenImages, Plan, make_plan
from tokenprobe.extract.rows import choose_rows

from .kit import DiskUsage, MakeConfig, for_people, sizes_on_disk


def plan_of(config: ExtractConfig) -> Plan:
    backbone = load_timm(
        BackboneRequest(config.model.removeprefix("timm:"), config.model_arg, None, False, config.seed)
    )
    source = open_dataset(config.data)
    images = {}
    for split in config.split or source.splits:
        listed = source.images(split)
        rows = choose_rows(listed, set(), config.limit, shuffled=True, seed=config.seed)
        images[split] = ChosenImages(rows, min(len(listed.ids), config.limit or 10**9), listed, [], [config.limit])
    return make_plan(config, backbone, source, images, "float32")


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
    out = Path(extract(config))
    assert planned == sizes_on_disk(out)
    assert plan.missing_bytes(out) == 0
    assert plan.missing_bytes(out, overwrite=True) <= 0


def test_missing_bytes_are_what_extending_a_store_adds(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config(layers="0", split=["test"])))
    before = sizes_on_disk(out).total()
    missing = plan_of(tiny_config()).missing_bytes(out)
    extract(tiny_config())
    assert missing == sizes_on_disk(out).total() - before


def test_missing_bytes_count_a_recorded_file_that_is_gone(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config()))
    chunk = next((out / "train/layer_01/patch").glob("c.*"))
    size = chunk.stat().st_size
    chunk.unlink()
    assert plan_of(tiny_config()).missing_bytes(out) == size


def test_a_small_split_has_eight_blocks_and_a_small_block_size_makes_more(tiny_config: MakeConfig) -> None:
    plan = plan_of(tiny_config(model_arg=tiny_config().model_arg | {"img_size": 256, "embed_dim": 96}, block_mib=1))
    # 64 × 64 tokens, 96 wide, two bytes each: 768 KiB per image, so a block of 1 MiB holds one image.
    assert plan.manifest.splits["train"].block_rows == 1
    assert plan.manifest.splits["train"].n_blocks == 60
    assert 8 <= plan_of(tiny_config()).manifest.splits["train"].n_blocks < 16


def test_more_views_miss_what_extending_a_store_adds(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config()))
    before = sizes_on_disk(out).total()
    missing = plan_of(tiny_config(views=3)).missing_bytes(out)
    extract(tiny_config(views=3))
    assert missing == sizes_on_disk(out).total() - before > 0


def test_blocks_are_the_same_whichever_layers_are_asked_for(tiny_config: MakeConfig) -> None:
    """Otherwise layers could not be added. The first layer has 64 × 64 tokens of 64 channels: 512 KiB per image."""
    size = {"pretrained_cfg_overlay": {"input_size": (3, 256, 256)}}
    arguments = {"depths": (1, 1, 1, 1), "dims": (64, 8, 12, 16)} | size
    config = tiny_config(model="timm:convnext_atto", model_arg=arguments, block_mib=1, split=["train"])
    for layers in ("all", "0", "-1"):
        assert plan_of(replace(config, layers=layers)).manifest.splits["train"].block_rows == 2


def test_a_full_disk_is_noticed_before_any_work(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(plan_of(tiny_config()).layer_bytes().values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed - 1))
    out = Path(tiny_config().out)
    message = (
        rf"^the store needs {for_people(needed)} more and the disk of '.*tiny\.zarr' has {for_people(needed - 1)} "
        r"free; extract fewer --layers or splits \(--split\), set a --limit, or write to another disk$"
    )
    with pytest.raises(NoSpaceError, match=message):
        extract(tiny_config())
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, needed))
    assert Path(extract(tiny_config())).exists()


def test_a_finished_store_needs_no_space(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(tiny_config())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 10**6, 0))
    extract(tiny_config())
    extract(tiny_config(overwrite=True))
    with pytest.raises(NoSpaceError, match=r"the store needs .* more"):
        extract(tiny_config(overwrite=True, dtype="float32"))
