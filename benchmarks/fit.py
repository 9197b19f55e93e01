"""Training a grid from a store, as ratios within one run.

    python benchmarks/fit.py linear stream memory
    python benchmarks/fit.py sweep --store cifar.zarr --images cifar10.npz --weights mae.safetensors

linear: 64 cells of `linear:pool=mean` on one batch: time per cell against one cell alone, and the rate against plain
matrix products of the same shapes. stream: an epoch of 16 EP cells from the disk, against the same steps on tokens in
memory. sweep: a fit of {6 layers} × {ep, aim, linear} × {4 rates} from the store, against running the backbone in every
epoch for one head at a time. The latter is extrapolated from the second of two epochs. It needs a store, its images and
weights. memory: resident memory of a fit from a 6 GB store on the disk, against the estimate of the dry run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from store import write_store  # the benchmark beside this one
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.stream import TokenStream
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.planning.estimate import estimate
from tokenprobe.probe.planning.layer_plan import make_layer_plan
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.store import open_store

CPU = torch.device("cpu")
EPOCHS, BATCH = 90, 256
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "depth": 8, "num_heads": 3, "num_classes": 0}
REPEATS = 5


def make_group(head: str, n_rates: int, n_seeds: int, shape: TokenShape, n_classes: int, batch: int) -> Group:
    (spec,) = parse_heads([head])
    cells = [
        Cell("b", LayerSet((0,)), spec, "lars", 0.1 * (rate + 1), 0.0, "full", seed)
        for rate in range(n_rates)
        for seed in range(n_seeds)
    ]
    return Group(cells, GroupSetup(shape, n_classes, batch_size=batch, device=CPU, precision="float32"))


def seconds(*steps: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Return the median time of each step. Steps take turns, so a busy machine slows all of them."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, of_step in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            of_step.append(time.perf_counter() - start)
    return [median(of_step) for of_step in times]


def linear(dim: int = 768, batch: int = 1024) -> None:
    shape = TokenShape((14, 14), dim, 1)
    for n_classes in (10, 1000):
        tokens = TokenBatch({"mean": torch.randn(batch, dim)}, torch.randint(n_classes, (batch,)))
        alone, many = (make_group("linear", *grid, shape, n_classes, batch) for grid in ((1, 1), (16, 4)))
        x, weight = torch.randn(batch, dim), torch.randn(dim, 64 * n_classes)
        logits = torch.randn(batch, 64 * n_classes)

        def products(x: Tensor = x, weight: Tensor = weight, logits: Tensor = logits) -> None:
            torch.mm(x, weight)
            torch.mm(x.T, logits)

        one, all_cells, plain = seconds(
            partial(alone.train_batch, tokens, 0.1),
            partial(many.train_batch, tokens, 0.1),
            products,
        )
        print(
            f"linear, {n_classes} classes: one of 64 cells takes {all_cells / 64 / one:.3f} of a cell alone "
            f"({1e3 * one:.1f} ms); the step runs at {plain / all_cells:.2f} of the rate of plain products"
        )


def stream(n_images: int = 2048) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        write_store(path, n_images)
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

        ram, disk = seconds(lambda: epoch("ram"), lambda: epoch("disk"), repeats=3)
        print(
            f"stream: an epoch of 16 EP cells from the store takes {disk / ram:.3f} of that from memory ({ram:.1f} s)"
        )


class Plain(nn.Module):
    """A head in the published order: every token is projected, then weighted."""

    def __init__(self, kind: str, dim: int, n_classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.queries = nn.Parameter(0.02 * torch.randn(32, dim))
        self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.token_norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.norm, self.classifier = nn.BatchNorm1d(dim, affine=False, eps=1e-6), nn.Linear(dim, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of tokens (B, N, D)."""
        if self.kind == "linear":
            return self.classifier(self.norm(x.mean(1)))
        n_maps = 32 if self.kind == "ep" else 12
        if self.kind == "ep":
            scores = self.queries @ x.transpose(1, 2) * x.shape[2] ** -0.5
        else:
            x = self.token_norm(x.transpose(1, 2)).transpose(1, 2)
            keys = self.key(x).unflatten(2, (n_maps, -1))
            scores = (
                torch.einsum("bnhk,hk->bhn", keys, self.queries[0].unflatten(0, (n_maps, -1))) * keys.shape[3] ** -0.5
            )
        values = self.value(x).unflatten(2, (n_maps, -1))
        return self.classifier(self.norm(torch.einsum("bhn,bnhk->bhk", scores.softmax(2), values).flatten(1)))


def plain_epoch(kind: str, images: dict[str, Tensor], labels: Tensor, backbone: Any) -> float:
    """Return the seconds of the second of two epochs of one head, backbone included."""
    head = Plain(kind, VIT["embed_dim"], 10)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)

    def tokens(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return backbone.forward_intermediates(batch, indices=[5], intermediates_only=True, output_fmt="NLC")[0]

    for _ in range(2):
        start = time.perf_counter()
        for rows in torch.randperm(len(images["train"])).split(BATCH):
            nn.functional.cross_entropy(head.train()(tokens(images["train"][rows])), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        head.eval()
        for batch in images["test"].split(BATCH):
            with torch.no_grad():
                head(tokens(batch))
    return time.perf_counter() - start


def sweep(store: Path, images: Path, weights: Path, epochs: int) -> None:
    content = np.load(images)
    pixels = {s: torch.from_numpy(content[f"x_{s}"]).permute(0, 3, 1, 2).float() / 127.5 - 1 for s in ("train", "test")}
    backbone = timm.models.VisionTransformer(**VIT).eval()
    backbone.load_state_dict(load_file(weights), strict=False)
    labels = torch.from_numpy(content["y_train"]).long()
    plain = {kind: plain_epoch(kind, pixels, labels, backbone) for kind in ("ep", "aim", "linear")}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        heads = ["ep", "aim:heads=12", "linear"]
        run = fit(store, FitConfig(out=folder, heads=heads, layers="last6", lr=[0.1, 1, 10, 30], epochs=epochs))
        ours = time.perf_counter() - start
    theirs = sum(plain.values()) * 6 * 4 * EPOCHS
    shown = ", ".join(f"{kind} {value:.1f} s" for kind, value in plain.items())
    print(f"sweep: {len(run.results)} cells in {ours:.0f} s for {epochs} epochs; plain epochs of one head: {shown}")
    print(
        f"sweep: extrapolated to {EPOCHS} epochs, {theirs:.0f} s (24 cells of each head, one at a time) against "
        f"{ours * EPOCHS / epochs:.0f} s: {theirs / (ours * EPOCHS / epochs):.0f} times"
    )


def memory(n_images: int = 40_000) -> None:
    """Fit one epoch of one EP cell from 6 GB in a fresh process; compare its memory with the dry run's estimate."""
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder) / "train.zarr", Path(folder) / "test.zarr"
        write_store(train, n_images)
        write_store(test, 512)
        settings: dict[str, Any] = {
            "heads": ["ep:queries=16"], "lr": [0.1], "epochs": 1, "cache": "disk", "device": "cpu",
            "test_store": str(test), "test_split": "train", "out": f"{folder}/run",
        }  # fmt: skip
        config = FitConfig(**settings)
        machine = make_machine(config)
        plan = make_plan(open_store(train), config, machine.precision)
        announced = estimate(make_layer_plan(plan, machine, LayerSet((0,)), frozenset()), machine, {})
        command = [sys.executable, "-c", FIT_AND_MEASURE, str(train), json.dumps(settings)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used, mib = json.loads(shown.splitlines()[-1]), 2**20
    bound = 2 * announced.windows + announced.training + 300 * mib
    training = used - announced.windows
    print(
        f"memory: {used / mib:.0f} MiB beyond imports (bound {bound / mib:.0f}); training {training / mib:.0f} MiB, "
        f"{announced.training / mib:.0f} announced ({announced.training / training:.2f})"
    )


FIT_AND_MEASURE = """
import json, sys
from tokenprobe.probe import FitConfig, pipeline

def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

imports = resident("VmRSS")
pipeline.fit([sys.argv[1]], FitConfig(**json.loads(sys.argv[2])))
print(resident("VmHWM") - imports)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["linear", "stream", "sweep", "memory"])
    for name in ("store", "images", "weights"):
        parser.add_argument(f"--{name}", type=Path, help="of the sweep")
    parser.add_argument("--epochs", type=int, default=9, help="of our fit; its time is scaled to 90")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {"linear": linear, "stream": stream, "memory": memory}
    for part in arguments.parts:
        if part != "sweep":
            parts[part]()
        elif all((arguments.store, arguments.images, arguments.weights)):
            sweep(arguments.store, arguments.images, arguments.weights, arguments.epochs)
        else:
            print("sweep: skipped, it needs --store, --images and --weights")


if __name__ == "__main__":
    main()
