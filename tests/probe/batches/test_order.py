"""The order of rows: what it covers, what it depends on, and how well it mixes classes."""

from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import WINDOW_BLOCKS, batch_sizes, epoch_windows, sequential_windows
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.store import open_store

ALL = np.arange(1003)
SOME = np.flatnonzero(np.arange(1003) % 7 != 2)


def expected_classes(labels: np.ndarray, batch_size: int) -> float:
    """Mean number of classes in a batch drawn without replacement."""
    n = len(labels)
    return sum(1 - comb(n - int(c), batch_size) / comb(n, batch_size) for c in np.bincount(labels) if c)


def mean_classes(labels: np.ndarray, block_rows: int, batch_size: int, n_epochs: int) -> float:
    """Mean number of classes in the batches that training sees."""
    counts = []
    for epoch in range(n_epochs):
        order = np.concatenate(epoch_windows(np.arange(len(labels)), block_rows, 0, epoch))
        n_full = len(order) // batch_size
        counts += [len(set(labels[batch])) for batch in order[: n_full * batch_size].reshape(n_full, batch_size)]
    return float(np.mean(counts))


@pytest.mark.parametrize("rows", [ALL, SOME, ALL[:1], ALL[40:41]], ids=["all", "some", "first", "one"])
def test_an_epoch_covers_each_row_once(rows: np.ndarray) -> None:
    for epoch in range(3):
        assert np.array_equal(np.sort(np.concatenate(epoch_windows(rows, 16, 0, epoch))), rows)


def test_a_window_is_eight_whole_blocks_in_mixed_order() -> None:
    windows = epoch_windows(SOME, 16, 0, 0)
    blocks = [set(window // 16) for window in windows]
    assert len(windows) == -(-63 // WINDOW_BLOCKS) == 8
    assert [len(of_window) for of_window in blocks] == [8] * 7 + [7]
    assert len(set.union(*blocks)) == sum(map(len, blocks))  # no block in two windows
    for window, of_window in zip(windows, blocks, strict=True):
        assert len(window) == int(np.isin(SOME // 16, list(of_window)).sum())
        assert len(set(window[:32] // 16)) > 4  # shuffled across its blocks


def test_the_order_is_a_function_of_seed_epoch_and_block_size() -> None:
    def order(block_rows: int, seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(np.concatenate(epoch_windows(ALL, block_rows, seed, epoch)))

    settings = [(16, 0, 0), (16, 0, 1), (16, 1, 0), (16, 1, 1), (32, 0, 0)]
    assert len({order(*setting) for setting in settings}) == len(settings)
    together = [frozenset(epoch_windows(ALL, *setting)[0] // setting[0]) for setting in settings]
    assert len(set(together)) == len(settings)  # other blocks meet in a window
    assert [order(*setting) for setting in settings] == [order(*setting) for setting in settings]


def test_the_order_owes_nothing_to_global_random_state() -> None:
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    first = epoch_windows(ALL, 16, 0, 0)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, epoch_windows(ALL, 16, 0, 0), strict=True))


def test_batches_of_a_shuffled_store_hold_as_many_classes_as_random_ones() -> None:
    """64 blocks of 16 classes' worth of rows: the window is an eighth of the data, as in a large store."""
    in_source_order = np.repeat(np.arange(64), 64)
    shuffled = np.random.default_rng(0).permutation(in_source_order)
    expected = expected_classes(shuffled, 64)
    assert expected == pytest.approx(64 * (1 - (1 - 1 / 64) ** 64), rel=0.01)
    assert mean_classes(shuffled, 64, 64, n_epochs=4) == pytest.approx(expected, rel=0.03)
    assert mean_classes(in_source_order, 64, 64, n_epochs=4) < 0.25 * expected  # so the measure can tell


@pytest.mark.parametrize("row_order", ["shuffled", "dataset"])
def test_an_extraction_of_sorted_folders_gives_mixed_batches(
    row_order: str, tiny_config: Callable[..., ExtractConfig], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for label in range(12):
        folder = tmp_path / "sorted" / f"class{label:02d}"
        folder.mkdir(parents=True)
        for index in range(16):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    config = tiny_config(data=f"folder:{tmp_path / 'sorted'}", layers="0", row_order=row_order, batch_size=24)
    split = open_store(extract(config))["train"]
    labels, block_rows = split.labels, split.info.block_rows
    assert len(labels) == 192 and block_rows == 24
    in_blocks = np.mean([len(set(labels[start : start + block_rows])) for start in range(0, 192, block_rows)])
    if row_order == "dataset":
        assert in_blocks == 2  # what shuffling in the store is for
        return
    assert in_blocks == pytest.approx(expected_classes(labels, block_rows), rel=0.08)  # 8 blocks: 0.4 of 10.6 classes
    stream = TokenStream(split, LayerSet((0,)), np.arange(192), ["mean"], cache="ram", device=torch.device("cpu"))
    seen = [
        len(set(batch.labels.tolist()))
        for epoch in range(20)
        for batch in stream.batches(epoch_windows(np.arange(192), block_rows, 0, epoch), 12, drop_last=True)
    ]
    assert len(seen) == 20 * 16
    assert np.mean(seen) == pytest.approx(expected_classes(labels, 12), rel=0.03)


@pytest.mark.parametrize("rows", [ALL, SOME, ALL[:5], ALL[300:301]], ids=["all", "some", "few", "one"])
def test_sequential_windows_hold_sorted_rows_of_eight_blocks(rows: np.ndarray) -> None:
    windows = sequential_windows(rows, 16)
    assert np.array_equal(np.concatenate(windows), rows)
    assert len({int(window[0]) // 128 for window in windows}) == len(windows)
    assert all(len(set(window // 128)) == 1 for window in windows)


@pytest.mark.parametrize(
    ("n_rows", "drop_last", "expected"),
    [(12, True, [4, 4, 4]), (14, True, [4, 4, 4]), (14, False, [4, 4, 4, 2]), (3, True, [3]), (3, False, [3])],
)
def test_the_last_partial_batch_is_dropped_unless_it_is_the_only_one(
    n_rows: int, drop_last: bool, expected: list[int]
) -> None:
    assert batch_sizes(n_rows, 4, drop_last=drop_last) == expected
