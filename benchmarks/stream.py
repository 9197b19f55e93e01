"""Bytes/s of tokens to the training device, from the disk, from memory and from the device itself, in one run.

    python benchmarks/stream.py [--device cuda] [--gib 1] [--batch 1024] [--repeats 5] [--folder FOLDER] [--json FILE]

Writes tokens of a ViT-S-sized layer (196 patches, 384 wide, float16) and reads shuffled epochs of them. The caches
take turns. The files are in the page cache. Two limits are measured too: gathering rows in memory without using them
and, for a GPU, copies from pinned memory already filled. The first epoch of each stream is not counted, because it
allocates the buffers. Takes half a minute.
"""

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Call, Row, make_parser, make_row, report, take_turns  # the files beside this one
from stand_ins import IMAGE_BYTES, draw_tokens, write_store

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.pieces import make_ring, read_batches
from tokenprobe.probe.batches.stream import PIECE_BYTES, TokenStream
from tokenprobe.probe.batches.upload import Upload
from tokenprobe.runtime.device import resolve_device
from tokenprobe.store import Split, open_store
from tokenprobe.store.memory_reader import MemoryReader

CPU = torch.device("cpu")


def epochs_of(split: Split, device: torch.device, batch: int) -> dict[str, Call]:
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


def limits(split: Split, device: torch.device, batch: int) -> dict[str, Call]:
    """Return functions that gather the rows of an epoch without using them, and that copy as many bytes."""
    windows = epoch_windows(np.arange(len(split)), split.info.block_rows, 0, 0)
    order = np.concatenate(windows)
    batches = np.split(order, range(batch, len(order), batch))[: max(1, len(order) // batch)]
    values, ring = split.tokens(0), make_ring(device)
    filled = torch.from_numpy(make_ring(device).array(0, (batch, *values.shape[1:]), values.dtype))

    def gather() -> None:
        reader, piece_rows = MemoryReader(values), PIECE_BYTES // IMAGE_BYTES
        for _ in read_batches(
            reader, batches, piece_rows, dtype=values.dtype, ring=ring, as_tensor=torch.from_numpy, device=CPU
        ):
            pass

    def copy() -> None:
        for _ in Upload(device).each(filled for _ in batches):
            pass

    return {"gathering alone": gather} | ({"copying alone": copy} if device.type == "cuda" else {})


def measure(given: argparse.Namespace) -> Iterator[Row]:
    device = resolve_device(given.device)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "a.zarr"
        write_store(path, {"train": int(given.gib * 2**30 / IMAGE_BYTES)}, draw_tokens())
        split = open_store(path)["train"]
        epochs = epochs_of(split, device, given.batch) | limits(split, device, given.batch)

        def waited_for(epoch: Call) -> None:
            epoch()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        found = take_turns({name: partial(waited_for, epoch) for name, epoch in epochs.items()}, given.repeats)
    names = {"ram": "the cache in memory", "gpu": "the cache on the device"}
    for name, times in found.items():
        if name != "disk":
            yield make_row(f"an epoch to {device} from the disk, against {names.get(name, name)}", found["disk"], times)


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--folder", default=None)
    given = parser.parse_args()
    report("stream", measure(given), given.json)


if __name__ == "__main__":
    main()
