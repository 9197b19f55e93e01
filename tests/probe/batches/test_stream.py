"""The stream: the same batches from memory and from disk, equal to indexing the arrays that were stored."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenprobe.errors import StoreError
from tokenprobe.probe.batches import stream as stream_module
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.norm import FinalNorm
from tokenprobe.probe.batches.order import epoch_windows, sequential_windows
from tokenprobe.probe.batches.pieces import Rings
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.store import Split, open_store
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.ring import BufferRing
from tokenprobe.testing.store_kit import DTYPES, SUFFIXES, block_path, make_contents, write

N, BLOCK, LAYER = 61, 5, 3
ONE = LayerSet((LAYER,))
CPU = torch.device("cpu")
CACHES = ["gpu", "ram", "disk"]
"""On the CPU "gpu" keeps tokens in its memory, filled as that of a GPU is: a window at a time."""
SOME = np.flatnonzero(np.arange(N) % 5 != 3)
MADE = {dtype: make_contents(dtype, counts={"train": N, "test": 3}, block_rows=BLOCK) for dtype in DTYPES}
TENSORS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.float16}


@pytest.fixture(params=SUFFIXES, ids=["zarr", "hdf5"])
def split_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Split]:
    """Give the training split of a store of a dtype, written once: not to be changed."""

    def give(dtype: str) -> Split:
        path = tmp_path_factory.getbasetemp() / f"stream-{dtype}{request.param}"
        return open_store(path if path.exists() else write(path, MADE[dtype]))["train"]

    return give


def wanted(dtype: str, kind: str) -> torch.Tensor:
    """Return what was stored, (n, …), as the stream should deliver it."""
    values = torch.from_numpy(MADE[dtype].returned[f"train/layer_{LAYER:02d}/{kind}"][0])
    return values if kind == "mean" else values.to(TENSORS[dtype])


def labels_of(rows: np.ndarray) -> list[int]:
    return MADE["float16"].stored["train/labels"][rows].tolist()


def take(
    stream: TokenStream, windows: list[np.ndarray], batch_size: int, drop_last: bool = True, view: int = 0
) -> list[tuple[dict[str, torch.Tensor], list[int]]]:
    return [
        ({kind: values.clone() for kind, values in batch.arrays.items()}, batch.labels.tolist())  # a view is lent
        for batch in stream.batches(windows, batch_size, drop_last=drop_last, view=view)
    ]


def rings_of(ring: BufferRing) -> Rings:
    rings = Rings(CPU)
    rings[LAYER, "patch"] = ring
    return rings


def assert_equal(read: torch.Tensor, values: torch.Tensor, dtype: str) -> None:
    """int8 tokens are computed in float32: where two terms cancel, a rounding of the larger one is left."""
    tolerance: dict[str, Any] = {"rtol": 2**-10, "atol": 2e-5} if dtype == "int8" else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(read, values, **tolerance)


@pytest.mark.parametrize("window_blocks", [1, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 10, 64])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_are_the_rows_asked_for_in_their_order(
    split_of: Callable[[str], Split],
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    cache: str,
    batch_size: int,
    window_blocks: int,
) -> None:
    """49 rows in windows of 33 and 16: batches of 7 divide them, those of 10 leave 9, and both cross an end."""
    monkeypatch.setattr(stream_module, "WINDOW_BLOCKS", window_blocks)  # of what is read at a time
    kinds = ["mean", "patch", "prefix"]
    stream = TokenStream(split_of(dtype), ONE, SOME, kinds, cache=cache, device=CPU)
    windows = epoch_windows(SOME, BLOCK, seed=0, epoch=1)
    order = np.concatenate(windows)
    assert len(windows) == 2 and len(order) == 49
    for drop_last in (True, False):
        batches = take(stream, windows, batch_size, drop_last)
        assert len(batches) == (max(1, 49 // batch_size) if drop_last else -(-49 // batch_size))
        for number, (arrays, labels) in enumerate(batches):
            rows = order[number * batch_size : (number + 1) * batch_size]
            assert labels == labels_of(rows)
            assert sorted(arrays) == kinds
            for kind in kinds:
                assert_equal(arrays[kind], wanted(dtype, kind)[rows], dtype)


@pytest.mark.parametrize("kinds", [["patch"], ["prefix"], ["mean"]], ids="+".join)
@pytest.mark.parametrize("cache", CACHES)
def test_only_what_is_asked_for_comes(split_of: Callable[[str], Split], cache: str, kinds: list[str]) -> None:
    stream = TokenStream(split_of("float16"), ONE, SOME, kinds, cache=cache, device=CPU)
    ((arrays, _),) = take(stream, [SOME], 64)
    assert list(arrays) == kinds
    assert_equal(arrays[kinds[0]], wanted("float16", kinds[0])[SOME], "float16")


@pytest.mark.parametrize("cache", CACHES)
def test_a_reader_of_the_mean_reads_no_patch_tokens(split_of: Callable[[str], Split], cache: str) -> None:
    stream = TokenStream(split_of("float16"), ONE, SOME, ["mean", "patch"], cache=cache, device=CPU)
    (batch,) = stream.batches([SOME], 64, drop_last=False, kinds=["mean"])
    assert list(batch.arrays) == ["mean"]


@pytest.mark.parametrize("cache", CACHES)
def test_a_stream_gives_epoch_after_epoch_and_sequential_passes_between(
    split_of: Callable[[str], Split], cache: str
) -> None:
    stream = TokenStream(split_of("bfloat16"), ONE, np.arange(N), ["patch"], cache=cache, device=CPU)
    held = np.setdiff1d(np.arange(N), SOME)
    for epoch in range(3):
        trained = take(stream, epoch_windows(SOME, BLOCK, 0, epoch), 16)
        assert len(trained) == len(SOME) // 16
        scored = take(stream, sequential_windows(held, BLOCK), 5, drop_last=False)
        assert_equal(
            torch.cat([arrays["patch"] for arrays, _ in scored]), wanted("bfloat16", "patch")[held], "bfloat16"
        )
        assert [label for _, labels in scored for label in labels] == labels_of(held)


@pytest.mark.parametrize("n_buffers", [1, 2])
def test_streams_that_take_turns_share_buffers_that_do_not_grow(
    split_of: Callable[[str], Split], n_buffers: int
) -> None:
    asked: list[int] = []

    def allocate(n_bytes: int) -> np.ndarray:
        asked.append(n_bytes)
        return page_aligned(n_bytes)

    rings = rings_of(BufferRing(n_buffers, allocate))
    split = split_of("float16")
    streams = [TokenStream(split, ONE, rows, ["patch"], cache="disk", device=CPU, rings=rings) for rows in (SOME, SOME)]
    for epoch in range(3):
        for stream in streams:
            take(stream, epoch_windows(SOME, BLOCK, 0, epoch) * n_buffers, 10, drop_last=False)
    assert asked == [40 * 6 * 5 * 2] * n_buffers  # four batches: a window holds 40 rows


@pytest.mark.parametrize("n_buffers", [1, 2])
def test_a_batch_from_disk_stays_as_it_is_until_the_next_is_asked_for(
    split_of: Callable[[str], Split], n_buffers: int
) -> None:
    rings = rings_of(BufferRing(n_buffers))
    stream = TokenStream(split_of("float16"), ONE, SOME, ["patch"], cache="disk", device=CPU, rings=rings)
    values, order = wanted("float16", "patch"), np.tile(SOME, 3)
    for number, batch in enumerate(stream.batches([order], 30, drop_last=False)):
        time.sleep(0.02)  # the next batch may be read meanwhile
        assert_equal(batch.arrays["patch"], values[order[number * 30 : number * 30 + 30]], "float16")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_the_disk_cache_reads_while_training(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"s{suffix}", MADE["float16"])
    split = open_store(path)["train"]
    streams = {cache: TokenStream(split, ONE, SOME, ["patch"], cache=cache, device=CPU) for cache in ("ram", "disk")}
    lost = block_path(path, f"train/layer_{LAYER:02d}/patch", 0, 3)
    lost.unlink()
    assert len(take(streams["ram"], [SOME], 16)) == len(SOME) // 16
    with pytest.raises(StoreError, match=f"block file '{lost}' is missing; run the same probe extract again"):
        take(streams["disk"], [SOME], 16)


def test_batches_from_memory_may_be_changed_without_changing_what_is_kept(split_of: Callable[[str], Split]) -> None:
    stream = TokenStream(split_of("float16"), ONE, np.arange(N), ["patch", "mean"], cache="ram", device=CPU)
    for batch in stream.batches([np.arange(N)], N, drop_last=False):
        for values in (*batch.arrays.values(), batch.labels):
            values.zero_()
    arrays, labels = take(stream, [np.arange(N)], N)[0]
    assert_equal(arrays["patch"], wanted("float16", "patch"), "float16")
    assert labels == labels_of(np.arange(N))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("norm", [None, FinalNorm("LayerNorm", 1e-6, None, None)], ids=["as stored", "normed"])
@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_on_a_gpu_are_those_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, view: int, norm: FinalNorm | None
) -> None:
    """Two layers joined, arrays of three kinds, pieces of several batches and of one: the same bits from anywhere."""
    monkeypatch.setattr(stream_module, "PIECE_BYTES", 2000)
    contents = make_contents(dtype, counts={"train": N, "test": 3}, block_rows=BLOCK)
    split, device = open_store(write(tmp_path / "s.zarr", contents))["train"], torch.device("cuda", 0)
    windows = epoch_windows(SOME, BLOCK, seed=0, epoch=1)

    def stream(cache: str) -> TokenStream:
        kinds = ["mean", "patch", "prefix"]
        return TokenStream(split, LayerSet((0, LAYER)), SOME, kinds, cache=cache, device=device, norm=norm)

    of_caches = [take(stream(cache), windows, 7, view=view) for cache in CACHES]
    for first, *others in zip(*of_caches, strict=True):
        for arrays, labels in others:
            assert labels == first[1]
            for kind, values in first[0].items():
                assert values.device.type == arrays[kind].device.type == "cuda"
                torch.testing.assert_close(arrays[kind], values, rtol=0, atol=0)
    if norm is None:
        order = np.concatenate(windows)[:7]
        tokens = [torch.from_numpy(contents.returned[f"train/layer_{n:02d}/patch"][view, order]) for n in (0, LAYER)]
        assert_equal(of_caches[0][0][0]["patch"].cpu(), torch.cat(tokens, -1).to(TENSORS[dtype]), dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_is_pinned_once_for_all_passes(tmp_path: Path) -> None:
    device, rings = torch.device("cuda", 0), Rings(torch.device("cuda", 0))
    split = open_store(write(tmp_path / "s.zarr", MADE["float16"]))["train"]
    stream = TokenStream(split, ONE, SOME, ["patch"], cache="ram", device=device, rings=rings)
    places = set()
    for epoch in range(3):
        take(stream, epoch_windows(SOME, BLOCK, 0, epoch), 10)
        for turn in range(2):
            memory = rings[LAYER, "patch"].array(turn, (1,), np.dtype(np.uint8))
            assert torch.from_numpy(memory).is_pinned()
            places.add(memory.ctypes.data)
    assert len(places) == 2
