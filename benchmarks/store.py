"""The store's reader against reading the same bytes from one flat file, in one run.

    python benchmarks/store.py [--gib 2] [--folder FOLDER] [--repeats 5] [--json FILE]

Writes tokens of a ViT-S-sized layer (196 patches, 384 wide, float16) through the store's writer, and the same
bytes to one flat file. Then each way of reading takes turns with a flat read, so that the noise of a shared
machine falls on both; medians of the ratios are printed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from tokenprobe.probe.order import epoch_windows, sequential_windows
from tokenprobe.probe.stream import TokenStream
from tokenprobe.store import BlockKey, Manifest, Split, open_store, open_writer
from tokenprobe.store.layout import LayerShape, block_rows
from tokenprobe.store.manifest import Recipe, SplitInfo

SHAPE = LayerShape((14, 14), 384, 0)
ROW_BYTES = SHAPE.n_patches * SHAPE.dim * 2
N_THREADS, SPAN = 4, 16 * 2**20


def make_store(path: Path, n_images: int) -> tuple[Split, float]:
    """Write the store; return its split and the seconds it took."""
    rows = block_rows(n_images, ROW_BYTES, 128 * 2**20)
    info = SplitInfo(n_images, rows, "0", None, [], ["none"], {"layer_00": ["patch"]})
    recipe = Recipe("timm:none", {}, "0", {}, "float32", "float16", {"kind": "dataset"}, [])
    manifest = Manifest(recipe, "made", 1, {"layer_00": SHAPE}, None, {"train": info}, {})
    values = np.random.default_rng(0).standard_normal((64, SHAPE.n_patches, SHAPE.dim)).astype(np.float16)
    start = time.perf_counter()
    with open_writer(path, manifest) as writer:
        writer.declare({"train": (np.zeros(n_images, np.int64), [str(i) for i in range(n_images)])})
        for block in range(info.n_blocks):
            key, left = BlockKey("train", 0, block), min(rows, n_images - block * rows)
            while left:
                writer.append(key, 0, {"patch": values[:left]})
                left -= min(left, len(values))
            writer.finish(key, 0)
        writer.complete()
    return open_store(path)["train"], time.perf_counter() - start


def write_flat(path: Path, n_bytes: int) -> float:
    """Write and fsync the same number of bytes; return the seconds it took."""
    data = memoryview(np.random.default_rng(0).bytes(SPAN))
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, n_bytes, SPAN):
            file.write(data[: min(SPAN, n_bytes - offset)])
        os.fsync(file.fileno())
    return time.perf_counter() - start


def read_flat(path: Path, n_bytes: int) -> None:
    """Read a file once on a few threads, each into one buffer that it uses again."""
    fd = os.open(path, os.O_RDONLY)

    def read(start: int, stop: int) -> None:
        buffer = memoryview(bytearray(SPAN))
        while start < stop:
            start += os.preadv(fd, [buffer[: min(SPAN, stop - start)]], start)

    share = -(-n_bytes // N_THREADS)
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(read, range(0, n_bytes, share), [min(n_bytes, s + share) for s in range(0, n_bytes, share)]))
    os.close(fd)


def drop_caches(folder: Path) -> None:
    """Drop the page cache of the files below a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def paired(
    read: Callable[[], None], raw: Callable[[], None], before: Callable[[], None], repeats: int
) -> dict[str, float]:
    """Time two reads in turn; return medians in seconds, of their ratio, and of CPU seconds of the first."""
    times, raws, cpus = [], [], []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        raw()
        raws.append(time.perf_counter() - start)
        before()
        start, cpu = time.perf_counter(), time.process_time()
        read()
        times.append(time.perf_counter() - start)
        cpus.append(time.process_time() - cpu)
    ratios = [r / t for r, t in zip(raws, times, strict=True)]
    return {
        "of_raw": statistics.median(ratios),
        "s": statistics.median(times),
        "raw_s": statistics.median(raws),
        "cpu_s": statistics.median(cpus),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    n_images = int(arguments.gib * 2**30 / ROW_BYTES)
    n_bytes = n_images * ROW_BYTES
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        split, seconds = make_store(folder / "a.zarr", n_images)
        flat_seconds = write_flat(folder / "flat", n_bytes)
        rows = np.arange(n_images)
        windows = sequential_windows(rows, split.info.block_rows)
        buffer = np.empty((max(map(len, windows)), SHAPE.n_patches, SHAPE.dim), np.float16)
        buffer.fill(0)

        def in_order() -> None:
            for window in windows:
                split.tokens(0, window, out=buffer[: len(window)])

        stream = TokenStream(split, 0, rows, ["patch"], cache="disk", device=torch.device("cpu"))

        def shuffled_epoch() -> None:
            for arrays, _ in stream.batches(epoch_windows(rows, split.info.block_rows, 0, 0), 256, drop_last=True):
                assert len(arrays["patch"]) == 256

        raw = lambda: read_flat(folder / "flat", n_bytes)  # noqa: E731
        nothing, cold = (lambda: None), (lambda: drop_caches(folder))
        read_flat(folder / "flat", n_bytes)
        in_order()
        figures = {
            "gb": n_bytes / 1e9,
            "write_of_raw": flat_seconds / seconds,
            "warm": paired(in_order, raw, nothing, arguments.repeats),
            "shuffled": paired(shuffled_epoch, raw, nothing, arguments.repeats),
            "cold": paired(in_order, raw, cold, arguments.repeats),
        }
        figures["warm_cpu_s_per_gb"] = figures["warm"]["cpu_s"] / figures["gb"]
    print(json.dumps(figures, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
