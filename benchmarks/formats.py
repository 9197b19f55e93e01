"""The store against other ways to keep tokens: write them once, then read shuffled epochs as batches of tensors.

    python benchmarks/formats.py [--gib 1] [--folder FOLDER] [--repeats 5] [--json FILE]

zarr-python, h5py, safetensors shards, one `.pt` file per image and `np.memmap` keep the same tokens (196 × 384,
float16) without compression, as one would write them without this package. Their files are fsynced, as ours are.

* write: all images, to durable files.
* shuffled epoch: batches of 256. The others draw every batch from all images, and read on four threads, one batch each.
  Our store draws from blocks in a shuffled order. The files are in the page cache.
* random 1 %: sorted rows, as a fit of few labels reads them once.
"""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
import zarr
from rows import Call, Row, make_parser, make_row, report, take_turns  # the files beside this one
from safetensors import safe_open
from safetensors.torch import save_file
from stand_ins import IMAGE_BYTES, TOKENS, draw_tokens, write_store
from torch import Tensor

from store import BATCH, N_THREADS, shuffled
from tokenprobe.store import open_store

SHARD = 64
"""Images in a chunk of zarr-python and in a safetensors shard: 9 MiB."""


class Format(ABC):
    """One way to keep tokens (n, 196, 384), float16, in a folder of its own."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, values: np.ndarray, n: int) -> None:
        """Write n images durably; `values` are repeated."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.save(values, n)
        for file in self.folder.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())

    @abstractmethod
    def save(self, values: np.ndarray, n: int) -> None:
        """Write n images, a whole number of shards."""

    @abstractmethod
    def read(self, rows: np.ndarray) -> Tensor:
        """Return the tokens of sorted rows."""

    def epoch(self, n: int) -> None:
        """Read all batches of a shuffled epoch."""
        order = np.random.default_rng(0).permutation(n)
        batches = [np.sort(order[start : start + BATCH]) for start in range(0, n - BATCH + 1, BATCH)]
        with ThreadPoolExecutor(N_THREADS) as pool:
            for tokens in pool.map(self.read, batches):
                assert len(tokens) == BATCH


class Zarr(Format):
    """An array of zarr-python, in chunks of 64 images."""

    name = "zarr-python"

    def save(self, values: np.ndarray, n: int) -> None:
        """Write chunk by chunk."""
        array = zarr.create_array(
            str(self.folder / "a.zarr"), shape=(n, *TOKENS), chunks=(SHARD, *TOKENS), dtype="float16", compressors=None
        )
        for start in range(0, n, SHARD):
            array[start : start + SHARD] = values

    def read(self, rows: np.ndarray) -> Tensor:
        """Read rows by orthogonal indexing."""
        array = zarr.open_array(str(self.folder / "a.zarr"), mode="r")
        return torch.from_numpy(np.asarray(array.oindex[rows]))


class Hdf5(Format):
    """A contiguous dataset of h5py."""

    name = "h5py"

    def save(self, values: np.ndarray, n: int) -> None:
        """Write slice by slice."""
        with h5py.File(self.folder / "a.h5", "w") as file:
            dataset = file.create_dataset("tokens", (n, *TOKENS), "float16")
            for start in range(0, n, SHARD):
                dataset[start : start + SHARD] = values

    def read(self, rows: np.ndarray) -> Tensor:
        """Read rows one by one, which is faster here than a list of rows."""
        out = np.empty((len(rows), *TOKENS), np.float16)
        with h5py.File(self.folder / "a.h5") as file:
            for place, row in enumerate(rows):
                file["tokens"].read_direct(out, np.s_[row], np.s_[place])
        return torch.from_numpy(out)


class Safetensors(Format):
    """Shards of 64 images."""

    name = "safetensors shards"

    def save(self, values: np.ndarray, n: int) -> None:
        """Write shard by shard."""
        for shard in range(n // SHARD):
            save_file({"tokens": torch.from_numpy(values)}, self.folder / f"{shard}.safetensors")

    def read(self, rows: np.ndarray) -> Tensor:
        """Read slices of each shard that has rows wanted."""
        parts = []
        for shard in np.unique(rows // SHARD):
            with safe_open(self.folder / f"{shard}.safetensors", "pt") as file:
                tokens = file.get_slice("tokens")
                parts += [tokens[row : row + 1] for row in (rows[rows // SHARD == shard] % SHARD).tolist()]
        return torch.cat(parts)


class Files(Format):
    """A `.pt` file per image."""

    name = "one .pt per image"

    def save(self, values: np.ndarray, n: int) -> None:
        """Write image by image."""
        for row in range(n):
            torch.save(torch.from_numpy(values[row % SHARD]).clone(), self.folder / f"{row}.pt")

    def read(self, rows: np.ndarray) -> Tensor:
        """Load each file."""
        return torch.stack([torch.load(self.folder / f"{row}.pt") for row in rows])


class Memmap(Format):
    """One array in a file, mapped into memory."""

    name = "np.memmap"

    def save(self, values: np.ndarray, n: int) -> None:
        """Write slice by slice."""
        with (self.folder / "a.bin").open("wb") as file:
            for _ in range(n // SHARD):
                file.write(values.data)

    def read(self, rows: np.ndarray) -> Tensor:
        """Copy rows."""
        array = np.memmap(self.folder / "a.bin", np.float16, "r").reshape(-1, *TOKENS)
        return torch.from_numpy(np.asarray(array[rows]))


FORMATS: tuple[type[Format], ...] = (Zarr, Hdf5, Safetensors, Files, Memmap)


def measure(n: int, parent: Path | None, repeats: int) -> Iterator[Row]:
    values = draw_tokens(SHARD)
    rows = np.sort(np.random.default_rng(1).choice(n, max(1, n // 100), replace=False))
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        others = [kind(folder / kind.__name__) for kind in FORMATS]
        path = folder / "ours.zarr"
        write: dict[str, Call] = {"ours": lambda: write_store(path, {"train": n}, values, overwrite=True)}
        write |= {other.name: partial(other.write, values, n) for other in others}
        found = {"write": take_turns(write, repeats, warm_up=0)}
        split = open_store(path)["train"]
        assert all((other.read(rows).numpy() == split.tokens(0, rows)).all() for other in others)
        epochs: dict[str, Call] = {"ours": shuffled(split)} | {other.name: partial(other.epoch, n) for other in others}
        found["read a shuffled epoch"] = take_turns(epochs, repeats)
        few: dict[str, Call] = {"ours": lambda: split.tokens(0, rows)} | {
            other.name: partial(other.read, rows) for other in others
        }
        found["read a random 1 %"] = take_turns(few, repeats)
    for work, seconds in found.items():
        ours = seconds.pop("ours")
        yield from (make_row(f"{work}, against {other}", ours, theirs) for other, theirs in seconds.items())


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    given = parser.parse_args()
    n_images = int(given.gib * 2**30 / IMAGE_BYTES) // BATCH * BATCH
    report("formats", measure(n_images, given.folder, given.repeats), given.json)


if __name__ == "__main__":
    main()
