"""The dry run: its lines against the files of the extraction."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.extract import describe_extraction, extract, pipeline

from .kit import CountingSource, DiskUsage, MakeConfig, for_people, shown, sizes_on_disk


@pytest.mark.usefixtures("messages")
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(9 * 10**12, 0, 2_340_000_000_000))
    said = describe_extraction(tiny_config())
    assert not Path(extract(tiny_config(dry_run=True))).exists()
    assert list(tmp_path.iterdir()) == []
    messages = capsys.readouterr().err.splitlines()
    assert [line for line in messages if not line.startswith("time")] == [*said[:-1]]
    lines = shown("\n".join(said))
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
    assert lines["total"] == lines["to write"] == for_people(sizes.total())
    assert lines["free"] == "2.34 TB"


def test_a_dry_run_tells_of_fast_decoding(tiny_config: MakeConfig) -> None:
    for decode in ("exact", "fast"):
        lines = shown("\n".join(describe_extraction(tiny_config(decode=decode))))
        assert lines["pixels"].endswith(", decoded fast") == (decode == "fast")


def test_a_dry_run_tells_of_views(tiny_config: MakeConfig) -> None:
    lines = shown("\n".join(describe_extraction(tiny_config(views=3, view_scale=[0.25, 0.5]))))
    text = "3 of train: the above, then crops of 0.25 to 0.5 of the area, width / height 0.75 to 1.33, flipped or not"
    assert lines["views"] == text
    assert "views" not in shown("\n".join(describe_extraction(tiny_config())))


def test_a_dry_run_lists_layers_of_different_sizes_one_by_one(tiny_config: MakeConfig) -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16), "pretrained_cfg_overlay": {"input_size": (3, 32, 32)}}
    changes = {"model": "timm:convnext_atto", "model_arg": arguments, "split": ["test"], "limit": 8}
    lines = shown("\n".join(describe_extraction(tiny_config(**changes))))
    sizes = sizes_on_disk(extract(tiny_config(**changes)))
    assert len(set(sizes.values())) == 4
    assert {name: lines[name] for name in sizes} == {name: for_people(size) for name, size in sizes.items()}
    assert lines["total"] == for_people(sizes.total())


def test_a_dry_run_leaves_a_store_as_it_is_and_says_how_much_is_missing(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config(split=["test"])))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    done = sizes_on_disk(out).total()
    lines = shown("\n".join(describe_extraction(tiny_config())))
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    extract(tiny_config())
    total = sizes_on_disk(out).total()
    assert lines["total"] == for_people(total)
    assert lines["to write"] == for_people(total - done)


@pytest.mark.parametrize("knows", [True, False])
def test_a_dry_run_tells_what_the_command_would_refuse(tiny_config: MakeConfig, monkeypatch: Any, knows: bool) -> None:
    """Weights that a dry run draws in place of published ones are no reason."""
    extract(tiny_config())
    monkeypatch.setattr(pipeline, "wants_published", lambda _: not knows)
    assert "refused" not in shown("\n".join(describe_extraction(tiny_config())))
    for changes, why in (({"decode": "fast"}, "transform.decode"), ({"seed": 9}, "row_order.seed")):
        lines = shown("\n".join(describe_extraction(tiny_config(**changes))))
        assert why in lines["refused"]
        assert ("weights" in lines["refused"]) == (knows and "seed" in changes)
        with pytest.raises(StoreError) as refused:
            extract(tiny_config(**changes))
        assert lines["refused"] == str(refused.value) or not knows
    assert "refused" not in shown("\n".join(describe_extraction(tiny_config(decode="fast", overwrite=True))))


def test_a_dry_run_that_would_overwrite_counts_everything(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config()))
    lines = shown("\n".join(describe_extraction(tiny_config(overwrite=True))))
    assert lines["to write"] == for_people(sizes_on_disk(out).total())


def test_a_dry_run_decodes_no_image(tiny_config: MakeConfig, sources: list[CountingSource]) -> None:
    describe_extraction(tiny_config())
    describe_extraction(tiny_config(skip_bad_images=True))
    extract(tiny_config(skip_bad_images=True))
    describe_extraction(tiny_config(skip_bad_images=True))
    assert [source.n_loads for source in sources] == [0, 0, 2 * 84, 0]


@pytest.mark.usefixtures("messages")
def test_one_of_a_kind_is_singular(tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((1, 16, 16), dtype=np.uint8), y_train=[0])
    config = tiny_config(data=f"npz:{tmp_path / 'a.npz'}", layers="0")
    lines = shown("\n".join(describe_extraction(config)))
    assert lines["train"] == "1 image in 1 block, 1 class"
    assert lines["per layer"].endswith(", 1 layer")
    out = Path(extract(config))
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("extract 1/1 image  ")
    assert said[1].startswith(f"{out}: 1 image in ")
