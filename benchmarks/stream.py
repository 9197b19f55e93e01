"""Bytes/s of tokens to the training device, from the disk, from memory and from the device itself, in one run.

    python benchmarks/stream.py [--device cuda] [--gib 1] [--batch 1024] [--repeats 5] [--folder FOLDER] [--json FILE]

Writes tokens of a ViT-S-sized layer (196 patches, 384 wide, float16) and reads shuffled epochs of them. The caches
take turns, which spreads the noise of a shared machine over all of them. The files are in the page cache. Two limits
are measured too: gathering rows in memory without using them and, for a GPU, copies from pinned memory already filled.
The first epoch of each stream is shown separately, because it allocates the buffers. Takes half a minute.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from store import ROW_BYTES, write_store  # the benchmark beside this one
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.pieces import make_ring, read_batches
from tokenprobe.probe.batches.stream import PIECE_BYTES, TokenStream
from tokenprobe.probe.batches.upload import Upload
from tokenprobe.runtime.device import resolve_device
from tokenprobe.store import Split, open_store
from tokenprobe.store.memory_reader import MemoryReader

CPU = torch.device("cpu")
Epoch = Callable[[], None]


def epochs_of(split: Split, device: torch.device, batch: int) -> dict[str, Epoch]:
    """Return for each cache a function that reads one shuffled epoch from it."""
    rows = np.arange(len(split))
    windows = epoch_windows(rows, split.info.block_rows, 0, 0)
    caches = ["disk", "ram"] if device.type == "cpu" else ["disk", "ram", "gpu"]
    streams = {
        cache: TokenStream(split, LayerSet((0,)), rows, ["patch"], cache=cache, device=device) for cache in caches
    }

    def epoch(cache: str) -> None:
        for _ in streams[cache].batches(windows, batch, drop_last=True):
            pass

    return {cache: partial(epoch, cache) for cache in caches}


def limits(split: Split, device: torch.device, batch: int) -> dict[str, Epoch]:
    """Return functions that gather the rows of an epoch without using them, and that copy as many bytes."""
    windows = epoch_windows(np.arange(len(split)), split.info.block_rows, 0, 0)
    order = np.concatenate(windows)
    batches = np.split(order, range(batch, len(order), batch))[: max(1, len(order) // batch)]
    values, ring = split.tokens(0), make_ring(device)
    filled = torch.from_numpy(make_ring(device).array(0, (batch, *values.shape[1:]), values.dtype))

    def gather() -> None:
        reader, piece_rows = MemoryReader(values), PIECE_BYTES // ROW_BYTES
        for _ in read_batches(
            reader, batches, piece_rows, dtype=values.dtype, ring=ring, as_tensor=torch.from_numpy, device=CPU
        ):
            pass

    def copy() -> None:
        for _ in Upload(device).each(filled for _ in batches):
            pass

    return {"gathering alone": gather} | ({"copying alone": copy} if device.type == "cuda" else {})


def seconds(epochs: dict[str, Epoch], device: torch.device, repeats: int) -> dict[str, list[float]]:
    """Time the epochs in turn, including the device's work. The first time in each list is the first epoch's."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(repeats + 1):
        for name, epoch in epochs.items():
            start = time.perf_counter()
            epoch()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "a.zarr"
        write_store(path, int(arguments.gib * 2**30 / ROW_BYTES))
        split = open_store(path)["train"]
        epochs = epochs_of(split, device, arguments.batch) | limits(split, device, arguments.batch)
        times = seconds(epochs, device, arguments.repeats)
    n_bytes = max(1, len(split) // arguments.batch) * min(arguments.batch, len(split)) * ROW_BYTES
    disk = median(times["disk"][1:])
    figures = {
        name: {"bytes_per_s": n_bytes / median(later), "of_disk": disk / median(later), "first": first / median(later)}
        for name, (first, *later) in times.items()
    }
    for name, found in figures.items():
        print("{:16} {:7.2f} GB/s, {:6.2f} of the disk, first epoch {:.1f} times a later one".format(
            name, found["bytes_per_s"] / 1e9, found["of_disk"], found["first"]
        ))  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": str(device), "seconds": times, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
