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
from tokenprobe.store import open_store

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
