"""Training a grid from a store, as ratios within one run.

    python benchmarks/fit.py [linear stream] [--repeats 5] [--json FILE]

linear: a step of 64 cells of `linear:pool=mean`, against 64 steps of one cell, and against plain matrix products of the
same shapes. stream: an epoch of 16 EP cells from the disk, against the same steps on tokens in memory.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rows import Row, make_parser, make_row, report, take_turns  # the files beside this one
from stand_ins import draw_tokens, write_store
from torch import Tensor

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.store import open_store

CPU = torch.device("cpu")
BATCH = 256


def make_group(head: str, n_rates: int, n_seeds: int, shape: TokenShape, n_classes: int, batch: int) -> Group:
    (spec,) = parse_heads([head])
    cells = [
        Cell("b", LayerSet((0,)), spec, "lars", 0.1 * (rate + 1), 0.0, "full", seed)
        for rate in range(n_rates)
        for seed in range(n_seeds)
    ]
    return Group(cells, GroupSetup(shape, n_classes, batch_size=batch, device=CPU, precision="float32"))


def linear(repeats: int, dim: int = 768, batch: int = 1024) -> Iterator[Row]:
    shape = TokenShape((14, 14), dim, 1)
    for n_classes in (10, 1000):
        tokens = TokenBatch({"mean": torch.randn(batch, dim)}, torch.randint(n_classes, (batch,)))
        alone, many = (make_group("linear", *grid, shape, n_classes, batch) for grid in ((1, 1), (16, 4)))
        x, weight = torch.randn(batch, dim), torch.randn(dim, 64 * n_classes)
        logits = torch.randn(batch, 64 * n_classes)

        def products(x: Tensor = x, weight: Tensor = weight, logits: Tensor = logits) -> None:
            torch.mm(x, weight)
            torch.mm(x.T, logits)

        calls = {
            "one": partial(alone.train_batch, tokens, 0.1),
            "all": partial(many.train_batch, tokens, 0.1),
            "products": products,
        }
        found = take_turns(calls, repeats)
        name = f"a step of 64 linear cells, {n_classes} classes, against"
        yield make_row(f"{name} 64 steps of one", found["all"], [64 * each for each in found["one"]])
        yield make_row(f"{name} matrix products of the same shapes", found["all"], found["products"])


def stream(repeats: int, n_images: int = 2048) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        write_store(path, {"train": n_images}, draw_tokens())
        split = open_store(path)["train"]
        group = make_group("ep:queries=16", 4, 4, TokenShape(**vars(split.shape(0))), 100, BATCH)
        rows = np.arange(len(split))
        streams = {
            cache: TokenStream(split, LayerSet((0,)), rows, ["patch"], cache=cache, device=CPU)
            for cache in ("ram", "disk")
        }

        def epoch(cache: str) -> None:
            windows = epoch_windows(rows, split.info.block_rows, 0, 0)
            for batch in streams[cache].batches(windows, BATCH, drop_last=True):
                group.train_batch(batch, 0.1)

        found = take_turns({"ram": lambda: epoch("ram"), "disk": lambda: epoch("disk")}, repeats)
    yield make_row("an epoch of 16 EP cells from the disk, against tokens in memory", found["disk"], found["ram"])


def main() -> None:
    parts: dict[str, Callable[[int], Iterator[Row]]] = {"linear": linear, "stream": stream}
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("parts", nargs="*", default=[*parts], help=" or ".join(parts))
    given = parser.parse_args()
    report("fit", (row for part in given.parts for row in parts[part](given.repeats)), given.json)


if __name__ == "__main__":
    main()
