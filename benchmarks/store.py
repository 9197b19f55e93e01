"""The store against the raw disk: reading, writing, low-shot reads and memory, in both formats, in one run.

    python benchmarks/store.py [--gib 1.5] [--folder FOLDER] [--repeats 7] [--json FILE] [--memory-gib 6]

Writes tokens of a ViT-S-sized layer (196 patches, 384 wide, float16) through the store's writer, and the same
bytes to one flat file. Then each way of reading takes turns with a flat read of the same bytes, which spreads the
noise of a shared machine over both. Medians of the ratios are printed.

The raw limit reads a flat file on four threads. Each thread reuses its own page-aligned memory. Together they use as
much memory as the reader's window, 1 GiB, so that both write to the same kind of memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows, sequential_windows
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.store import BlockKey, Manifest, Split, Targets, open_store, open_writer
from tokenprobe.store.contents import Recipe, SplitInfo
from tokenprobe.store.layout import LayerShape, block_rows
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.ring import BufferRing, read_ahead
from tokenprobe.store.verify import verify

SHAPE = LayerShape((14, 14), 384, 0)
ROW = SHAPE.row_shape("patch")
ROW_BYTES = SHAPE.n_patches * SHAPE.dim * 2
N_THREADS, SPAN = 4, 8 * 2**20
BATCH = 256
CPU = torch.device("cpu")


def make_manifest(n_images: int) -> Manifest:
    rows = block_rows(n_images, ROW_BYTES, 128 * 2**20)
    info = SplitInfo(n_images, rows, "0", None, [], ["none"], {"layer_00": ["patch"]})
    recipe = Recipe("timm:none", {}, "0", {"input_size": [224, 224]}, "float32", "float16", {"kind": "dataset"}, [])
    return Manifest(recipe, "made", 1, {"layer_00": SHAPE}, None, {"train": info}, {})


def write_store(path: Path, n_images: int) -> float:
    """Write a store; return the seconds taken."""
    manifest = make_manifest(n_images)
    rows = manifest.splits["train"].block_rows
    values = np.random.default_rng(0).standard_normal((64, *ROW)).astype(np.float16)
    start = time.perf_counter()
    with open_writer(path, manifest) as writer:
        writer.declare({"train": Targets(np.zeros(n_images, np.int64), [str(i) for i in range(n_images)])})
        for block in range(manifest.splits["train"].n_blocks):
            key, left = BlockKey("train", 0, block), min(rows, n_images - block * rows)
            while left:
                writer.append(key, 0, {"patch": values[:left]})
                left -= min(left, len(values))
            writer.finish_block(key, 0)
        writer.seal()
    return time.perf_counter() - start


def write_flat(path: Path, n_bytes: int) -> float:
    """Write and fsync the same number of bytes; return the seconds taken."""
    data = memoryview(np.random.default_rng(0).bytes(SPAN))
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, n_bytes, SPAN):
            file.write(data[: min(SPAN, n_bytes - offset)])
        os.fsync(file.fileno())
    return time.perf_counter() - start


class FlatFile:
    """The raw limit: one file and a few threads, each of which reuses its own memory."""

    def __init__(self, path: Path, n_bytes: int) -> None:
        self.path, self.n_bytes = path, n_bytes
        self._memory = [page_aligned(min(n_bytes, 2**30) // N_THREADS) for _ in range(N_THREADS)]

    def read(self) -> None:
        """Read the file once."""
        share = -(-self.n_bytes // N_THREADS)
        fd = os.open(self.path, os.O_RDONLY)

        def read(thread: int) -> None:
            start, stop = thread * share, min(self.n_bytes, (thread + 1) * share)
            memory, place = self._memory[thread], 0
            while start < stop:
                size = min(SPAN, stop - start, len(memory) - place)
                start += os.preadv(fd, [memory[place : place + size].data], start)
                place = (place + size) % len(memory)

        with ThreadPoolExecutor(N_THREADS) as pool:
            list(pool.map(read, range(N_THREADS)))
        os.close(fd)


def drop_caches(folder: Path) -> None:
    """Drop the files below a folder from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def paired(
    read: Callable[[], None], raw: Callable[[], None], before: Callable[[], None], repeats: int
) -> dict[str, float]:
    """Time two reads in turn; return medians of their seconds, their ratio, and the CPU seconds of the first."""
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
    return {
        "of_raw": statistics.median(r / t for r, t in zip(raws, times, strict=True)),
        "s": statistics.median(times),
        "raw_s": statistics.median(raws),
        "cpu_s": statistics.median(cpus),
    }


def read_in_order(split: Split, ring: BufferRing) -> None:
    """Read a layer in block order, one window at a time."""
    windows = sequential_windows(np.arange(len(split)), split.info.block_rows)
    for piece in read_ahead(split.reader(0), windows, split.dtype(), ring):
        assert len(piece)


def read_shuffled(stream: TokenStream) -> None:
    """Read one shuffled epoch as CPU tensors."""
    split = stream.split
    windows = epoch_windows(np.arange(len(split)), split.info.block_rows, 0, 0)
    for batch in stream.batches(windows, BATCH, drop_last=True):
        assert len(batch.arrays["patch"]) == BATCH


def device_bytes() -> int:
    """Return the bytes that this process has read from disks."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def read_low_shot(split: Split, folder: Path) -> dict[str, float]:
    """Read a random 1% of the images with a cold cache; return bytes fetched over bytes asked for."""
    rows = np.sort(np.random.default_rng(1).choice(len(split), max(1, len(split) // 100), replace=False))
    split.labels  # noqa: B018  reads the small arrays before the measurement
    drop_caches(folder)
    before, start = device_bytes(), time.perf_counter()
    split.tokens(0, rows)
    return {
        "n_images": len(rows),
        "ms": 1000 * (time.perf_counter() - start),
        "read_over_wanted": (device_bytes() - before) / (len(rows) * ROW_BYTES),
    }


def measure_format(folder: Path, name: str, n_images: int, flat: FlatFile, repeats: int) -> dict[str, Any]:
    """Write a store of one format and read it in every way."""
    writes = []
    for turn in range(3):
        seconds = write_store(folder / f"{turn}-{name}", n_images)
        writes.append(write_flat(folder / "written", flat.n_bytes) / seconds)
    split = open_store(folder / f"0-{name}")["train"]
    stream = TokenStream(split, LayerSet((0,)), np.arange(len(split)), ["patch"], cache="disk", device=CPU)
    ring = BufferRing()
    in_order, shuffled = (lambda: read_in_order(split, ring)), (lambda: read_shuffled(stream))
    warm, cold = (lambda: None), (lambda: drop_caches(folder))
    for each in (flat.read, in_order, shuffled):
        each()
    figures: dict[str, Any] = {
        "write_of_raw": statistics.median(writes),
        "warm": paired(in_order, flat.read, warm, repeats),
        "shuffled": paired(shuffled, flat.read, warm, repeats),
        "cold": paired(in_order, flat.read, cold, repeats),
        "shuffled_cold": paired(shuffled, flat.read, cold, repeats),
        "verify": paired(lambda: assert_whole(split.store.path), flat.read, warm, 3),
        "low_shot": read_low_shot(split, folder),
    }
    figures["cpu_s_per_gb"] = figures["warm"]["cpu_s"] / flat.n_bytes * 1e9
    return figures


def assert_whole(path: str | Path) -> None:
    assert verify(path) == []


def measure_memory(folder: Path, gib: float) -> dict[str, float]:
    """Stream an epoch of a larger store in its own process; return its memory beyond the imports, in MiB."""
    n_images = int(gib * 2**30 / ROW_BYTES)
    write_store(folder / "large.zarr", n_images)
    command = [sys.executable, __file__, "--folder", str(folder / "large.zarr"), "--measure-memory"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"gib": gib, **json.loads(shown)}


def resident_mib(key: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1024


def stream_and_measure(path: Path) -> None:
    """Print this process's memory before and after a shuffled epoch."""
    before = resident_mib("VmRSS")
    split = open_store(path)["train"]
    read_shuffled(TokenStream(split, LayerSet((0,)), np.arange(len(split)), ["patch"], cache="disk", device=CPU))
    print(json.dumps({"imports_mib": before, "beyond_mib": resident_mib("VmHWM") - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.5)
    parser.add_argument("--memory-gib", type=float, default=0)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", default=None)
    parser.add_argument("--measure-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        stream_and_measure(Path(arguments.folder))
        return
    n_images = int(arguments.gib * 2**30 / ROW_BYTES)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_flat(folder / "flat", n_images * ROW_BYTES)
        flat = FlatFile(folder / "flat", n_images * ROW_BYTES)
        figures: dict[str, Any] = {"gb": flat.n_bytes / 1e9}
        for store in ("a.zarr", "a.h5"):
            figures[store] = measure_format(folder, store, n_images, flat, arguments.repeats)
        if arguments.memory_gib:
            figures["memory"] = measure_memory(folder, arguments.memory_gib)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
