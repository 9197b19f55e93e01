"""Channel statistics of int8 tokens, against numpy over the same tokens."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tokenprobe.extract import extract
from tokenprobe.extract.forward import Outputs
from tokenprobe.extract.statistics import ChannelSums
from tokenprobe.store import open_store, writer
from tokenprobe.store.array_spec import array_specs
from tokenprobe.store.contract import StoreFiles
from tokenprobe.store.journal import Journal
from tokenprobe.store.manifest import Manifest
from tokenprobe.store.moved_rows import files_from
from tokenprobe.store.verify import STALE_SCALES, verify
from tokenprobe.workflows.repair import repair

from .kit import CountingSource, MakeConfig, digests


def test_mean_and_deviation_of_each_channel_over_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(10, 6, 4, generator=generator) * torch.tensor([1.0, 100.0, 1e-3, 1.0]) + 5
    patch[..., 3] = 2.5  # a channel that never changes
    prefix = torch.randn(10, 1, 4, generator=generator)
    sums = ChannelSums()
    for part in (slice(0, 4), slice(4, 10)):
        sums.add({7: Outputs(patch[part], prefix[part], None), 8: Outputs(patch[part] * 2, None, None)})
    statistics = {(layer, kind): values for layer in (7, 8) for kind, values in sums.statistics(layer).items()}
    assert set(statistics) == {(7, "patch"), (7, "prefix"), (8, "patch")}
    for (layer, kind), values in statistics.items():
        tokens = {"patch": patch, "prefix": prefix}[kind].double().numpy().reshape(-1, 4) * (layer - 6)
        expected = np.stack([tokens.mean(0), tokens.std(0)])
        if kind == "patch":
            expected[1, 3] = 1  # nothing to divide by
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)
        assert values.dtype == torch.float32


@pytest.mark.usefixtures("messages")
def test_int8_tokens_are_standardised_by_the_first_1024_rows_of_their_split(
    tiny_config: MakeConfig, tmp_path: Path, sources: list[CountingSource], capsys: pytest.CaptureFixture[str]
) -> None:
    """The later rows are white and would move the mean. A resumed run computes no statistics again."""
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 16, 16)).astype(np.uint8)
    pixels[1024:] = 255
    np.savez(tmp_path / "a.npz", x_train=pixels, y_train=np.zeros(1100, dtype=int))
    config = tiny_config(data=f"npz:{tmp_path / 'a.npz'}", layers="0,2", row_order="dataset", batch_size=64)
    exact = open_store(extract(replace(config, dtype="float32", out=tmp_path / "exact.zarr")))["train"]
    config = replace(config, dtype="int8")
    out = Path(extract(config))
    next((out / "train/layer_02/patch").glob("c.0.3.*")).unlink()
    extract(config)
    assert [source.n_loads for source in sources] == [1100, 1024 + 1100, exact.info.block_rows]
    told = "int8: computing channel statistics over the first images of 'train'"
    assert capsys.readouterr().err.splitlines().count(told) == 1
    arrays: Any = zarr.open_group(out, mode="r")["train"]
    for layer, kind in product((0, 2), ("patch", "prefix")):
        first = exact.tokens(layer, range(1024), kind=kind).astype(np.float64).reshape(-1, 12)
        stored = arrays[f"layer_{layer:02d}/{kind}_channels"][:]
        np.testing.assert_allclose(stored, [first.mean(0), first.std(0)], rtol=1e-4, atol=1e-5)


def test_int8_layers_that_come_later_have_the_bytes_they_would_have_had(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    whole = digests(extract(tiny_config(dtype="int8", out=tmp_path / "whole.zarr")))
    extract(tiny_config(dtype="int8", layers="1", split=["train"]))
    assert digests(extract(tiny_config(dtype="int8"))) == whole


def test_scales_belong_to_the_statistics_that_a_grown_store_has(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Every row has the error of a store made whole: rows that were stored before, and added ones alike."""
    stores = {}
    for dtype in ("float32", "int8"):
        config = tiny_config(dtype=dtype, out=tmp_path / f"{dtype}.zarr", layers="2", split=["train"])
        for limit in (10, 60):
            stores[dtype] = open_store(extract(replace(config, limit=limit)))["train"]
    assert stores["int8"].ids == stores["float32"].ids
    for kind in ("patch", "prefix"):
        exact, found = (stores[dtype].tokens(2, kind=kind, dtype=np.float32) for dtype in ("float32", "int8"))
        error = np.linalg.norm(exact - found, axis=-1) / np.linalg.norm(exact, axis=-1)
        assert error[:10].mean() < 1.2 * error[10:].mean() < 0.02


def test_verify_names_and_mends_the_scales_that_an_earlier_version_kept(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version removed all files that belong to earlier statistics, except the scales, and cancelled no records."""
    config = tiny_config(dtype="int8", layers="2", split=["train"])

    def all_but_scales(files: StoreFiles, manifest: Manifest, split: str, row: int) -> list[str]:
        kept = [name for spec in array_specs(manifest) for name in files.block_names(spec) if "_scale/" in name]
        behind = [name for name in kept if int(name.split("/c.0.")[1].split(".")[0]) >= row // 2]
        return [name for name in files_from(files, manifest, split, row) if name not in kept or name in behind]

    extract(replace(config, limit=17))
    out = Path(extract(replace(config, limit=17)))
    assert open_store(out)["train"].info.block_rows == 2 and verify(out) == []
    with monkeypatch.context() as patched:
        patched.setattr(writer, "files_from", all_but_scales)
        patched.setattr(Journal, "cancel", lambda *_: None)
        extract(replace(config, limit=40))
    problems = verify(out)
    arrays = ("patch_scale/c.0.{}.0", "prefix_scale/c.0.{}.0")
    assert [problem.file for problem in problems] == sorted(
        f"train/layer_02/{array.format(block)}" for array in arrays for block in range(8)
    )
    assert {(problem.kind, problem.what) for problem in problems} == {("damaged", STALE_SCALES)}
    assert repair(out) == []
    whole = tmp_path / "whole.zarr"
    for limit in (17, 40):
        extract(replace(config, limit=limit, out=whole))
    assert digests(out) == digests(whole)
