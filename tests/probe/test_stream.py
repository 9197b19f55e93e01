"""The stream: the same batches from memory and from disk, equal to indexing the arrays that were stored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenprobe.errors import StoreError
from tokenprobe.probe.order import epoch_windows, sequential_windows
from tokenprobe.probe.stream import TokenStream
from tokenprobe.store import Split, Store, open_store

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 203)
PATCH = RNG.normal(size=(203, 4, 6)).astype(np.float16)
ARRAYS = {"patch": PATCH, "prefix": PATCH[:, :2] + 1, "mean": PATCH.astype(np.float32).mean(1)}
CPU = torch.device("cpu")
SOME = np.flatnonzero(np.arange(203) % 5 != 3)


def write_split(write_store: Callable[..., Store], path: Path) -> Split:
    return write_store(path, {"train": {2: ARRAYS}}, {"train": LABELS}, grid=(2, 2), block_rows=5)["train"]


@pytest.fixture
def split(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Written once; not to be changed."""
    path = tmp_path_factory.getbasetemp() / "stream.zarr"
    return open_store(path)["train"] if path.exists() else write_split(write_store, path)


def take(stream: TokenStream, windows: list[np.ndarray], batch_size: int, drop_last: bool = True) -> list[list]:
    return [
        [{kind: values.numpy().copy() for kind, values in arrays.items()}, labels.numpy()]  # a view is lent
        for arrays, labels in stream.batches(windows, batch_size, drop_last=drop_last)
    ]


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("kinds", [["patch"], ["mean", "patch", "prefix"], ["prefix"]], ids="+".join)
@pytest.mark.parametrize("batch_size", [1, 7, 40, 64, 500])
def test_batches_are_the_rows_asked_for_in_their_order(
    split: Split, cache: str, kinds: list[str], batch_size: int
) -> None:
    """Windows hold up to 40 rows: batches of 7 and 64 cross their ends."""
    stream = TokenStream(split, 2, SOME, kinds, cache=cache, device=CPU)
    windows = epoch_windows(SOME, 5, seed=0, epoch=1)
    assert len(windows) == 6
    order = np.concatenate(windows)
    n_batches = max(1, len(order) // batch_size)
    batches = take(stream, windows, batch_size)
    assert len(batches) == n_batches
    for number, (arrays, labels) in enumerate(batches):
        rows = order[number * batch_size : (number + 1) * batch_size]
        assert np.array_equal(labels, LABELS[rows])
        assert sorted(arrays) == sorted(kinds)
        for kind in kinds:
            assert arrays[kind].dtype == ARRAYS[kind].dtype
            assert np.array_equal(arrays[kind], ARRAYS[kind][rows])


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_stream_gives_epoch_after_epoch_and_sequential_passes_between(split: Split, cache: str) -> None:
    stream = TokenStream(split, 2, np.arange(203), ["patch"], cache=cache, device=CPU)
    for epoch in range(3):
        trained = take(stream, epoch_windows(SOME, 5, 0, epoch), 16)
        assert len(trained) == len(SOME) // 16
        held = np.setdiff1d(np.arange(203), SOME)
        scored = take(stream, sequential_windows(held, 5), 16, drop_last=False)
        assert np.array_equal(np.concatenate([arrays["patch"] for arrays, _ in scored]), PATCH[held])
        assert np.array_equal(np.concatenate([labels for _, labels in scored]), LABELS[held])


def test_only_the_disk_cache_reads_while_training(write_store: Callable[..., Store], tmp_path: Path) -> None:
    split = write_split(write_store, tmp_path / "s.zarr")
    streams = {cache: TokenStream(split, 2, SOME, ["patch"], cache=cache, device=CPU) for cache in ("ram", "disk")}
    lost = split.extent(2, "patch", 0, 3).path
    lost.unlink()
    assert len(take(streams["ram"], [SOME], 16)) == len(SOME) // 16
    with pytest.raises(StoreError, match=f"block file '{lost}' is not there; run the same probe extract again"):
        take(streams["disk"], [SOME], 16)


def test_batches_may_be_changed_without_changing_what_is_kept(split: Split) -> None:
    stream = TokenStream(split, 2, np.arange(203), ["patch", "mean"], cache="ram", device=CPU)
    for arrays, labels in stream.batches([np.arange(203)], 203, drop_last=False):
        arrays["patch"].zero_()
        arrays["mean"].zero_()
        labels.zero_()
    arrays, labels = take(stream, [np.arange(203)], 203)[0]
    assert np.array_equal(arrays["patch"], PATCH) and np.array_equal(labels, LABELS)
