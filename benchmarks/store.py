"""The store against the raw disk: writing, reading and low-shot reads, in both formats, in one run.

    python benchmarks/store.py [--gib 1.5] [--folder FOLDER] [--repeats 7] [--json FILE]

Writes tokens of a ViT-S-sized layer (196 patches, 384 wide, float16) through the store's writer, and the same bytes to
one flat file. Then each way of reading takes turns with a flat read of the same bytes.

The raw limit reads a flat file on four threads. Each thread reuses its own page-aligned memory. Together they use as
much memory as the reader's window, 1 GiB, so that both write to the same kind of memory.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rows import Call, Row, make_parser, make_row, not_run, report, take_turns  # the files beside this one
from stand_ins import IMAGE_BYTES, draw_tokens, write_store

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows, sequential_windows
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.store import Split, open_store
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.ring import BufferRing, read_ahead
from tokenprobe.store.verify import verify

N_THREADS, SPAN = 4, 8 * 2**20
BATCH = 256
CPU = torch.device("cpu")


def write_flat(path: Path, n_bytes: int) -> None:
    """Write and fsync some bytes."""
    data = memoryview(draw_tokens(-(-SPAN // IMAGE_BYTES)).reshape(-1).view(np.uint8)[:SPAN])
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, n_bytes, SPAN):
            file.write(data[: min(SPAN, n_bytes - offset)])
        os.fsync(file.fileno())


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


def in_order(split: Split) -> Call:
    """Return a function that reads a layer in block order, one window at a time."""
    ring = BufferRing()

    def read() -> None:
        windows = sequential_windows(np.arange(len(split)), split.info.block_rows)
        for piece in read_ahead(split.reader(0), windows, split.dtype(), ring):
            assert len(piece)

    return read


def shuffled(split: Split) -> Call:
    """Return a function that reads one shuffled epoch as CPU tensors."""
    stream = TokenStream(split, LayerSet((0,)), np.arange(len(split)), ["patch"], cache="disk", device=CPU)

    def read() -> None:
        windows = epoch_windows(np.arange(len(split)), split.info.block_rows, 0, 0)
        for batch in stream.batches(windows, BATCH, drop_last=True):
            assert len(batch.arrays["patch"]) == BATCH

    return read


def device_bytes() -> int:
    """Return the bytes that this process has read from disks."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def low_shot_bytes(split: Split, rows: np.ndarray, folder: Path) -> int:
    """Read some images with a cold cache; return the bytes fetched."""
    split.labels  # noqa: B018  reads the small arrays before the measurement
    drop_caches(folder)
    before = device_bytes()
    split.tokens(0, rows)
    return device_bytes() - before


def of_format(folder: Path, name: str, n_images: int, flat: FlatFile, repeats: int) -> Iterator[Row]:
    """Write a store of one format and read it in every way."""
    path, kind, values = folder / name, name.partition(".")[2], draw_tokens()

    def pair(work: str, ours: Call, raw: Call, before: Callable[[], None] = lambda: None) -> Row:
        found = take_turns({"ours": ours, "raw": raw}, repeats, before=before)
        return make_row(f"{kind}: {work}", found["ours"], found["raw"])

    yield pair(
        "write, against a durable write of one file",
        lambda: write_store(path, {"train": n_images}, values, overwrite=True),
        lambda: write_flat(folder / "written", flat.n_bytes),
    )
    split = open_store(path)["train"]
    reads = {"read in order": in_order(split), "read a shuffled epoch": shuffled(split)}
    for work, read in reads.items():
        yield pair(f"{work}, against a raw read", read, flat.read)
        cold = f"{work} from the disk, against a raw read from the disk"
        yield pair(cold, read, flat.read, lambda: drop_caches(folder))
    yield pair("verify, against a raw read", lambda: assert_whole(path), flat.read)
    rows = np.sort(np.random.default_rng(1).choice(len(split), max(1, len(split) // 100), replace=False))
    fetched = low_shot_bytes(split, rows, folder)
    name = f"{kind}: bytes read for a random 1 %, against their size"
    if not fetched:
        yield not_run(name, "the folder is in memory: give --folder one on a disk")
    else:
        yield make_row(name, [fetched], [len(rows) * IMAGE_BYTES], "bytes")


def assert_whole(path: str | Path) -> None:
    assert verify(path) == []


def measure(n_images: int, parent: Path | None, repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder, n_bytes = Path(name), n_images * IMAGE_BYTES
        write_flat(folder / "flat", n_bytes)
        flat = FlatFile(folder / "flat", n_bytes)
        for store in ("a.zarr", "a.h5"):
            yield from of_format(folder, store, n_images, flat, repeats)


def main() -> None:
    parser = make_parser(__doc__, repeats=7)
    parser.add_argument("--gib", type=float, default=1.5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    given = parser.parse_args()
    report("store", measure(int(given.gib * 2**30 / IMAGE_BYTES), given.folder, given.repeats), given.json)


if __name__ == "__main__":
    main()
