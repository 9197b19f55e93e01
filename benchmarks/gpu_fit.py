"""The measurements of stage two in `gpu.py`: training heads, and reading their tokens."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from gpu_bench import Bench, Found, Line, Sizes
from published_heads import PublishedHead
from rows import make_row
from stand_ins import write_store

# All imports from the package are here.
from tokenprobe.probe import FitConfig
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.fitting.group_fit import GroupFit, start_fit
from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.fitting.streams import LayerStreams
from tokenprobe.probe.fitting.train import _train_epoch as train_epoch
from tokenprobe.probe.grid.cells import CellGroup
from tokenprobe.probe.planning.layer_plan import make_layer_plan, memory_of
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.probe.planning.passes import needed
from tokenprobe.probe.training.replay import make_recorder
from tokenprobe.store import open_store

DISK_RATE = 20e9
"""Bytes/s of the disk in "heads for the price of reading"."""


Cache = Literal["gpu", "ram", "disk"]


def make_store(path: Path, sizes: Sizes) -> Path:
    """Write random tokens of one layer, the same 64 images repeated, with random labels, unless the store exists."""
    if not path.exists():
        values = np.random.default_rng(0).standard_normal((64, sizes.n_tokens, sizes.dim), np.float32)
        splits = {"train": sizes.images, "test": 64}
        write_store(path, splits, values.astype(np.float16), n_classes=sizes.classes)
    return path


class Training:
    """EP heads, trained with the plan, streams and epochs of `fit`, but without scoring."""

    def __init__(self, bench: Bench, n_cells: int, cache: Cache) -> None:
        """Keep the tokens in the cache named by `cache`, and draw the heads."""
        sizes, seeds = bench.sizes, min(4, n_cells)
        config = FitConfig(
            out=bench.folder / "run",
            heads=[f"ep:queries={sizes.queries}"],
            lr=[1e-3 * (1 + index) for index in range(n_cells // seeds)],
            seeds=seeds,
            epochs=1000,
            batch_size=sizes.batch,
            protocol="paper",
            device=str(bench.device),
            cache=cache if bench.on_gpu or cache != "gpu" else "ram",
        )
        store = open_store(make_store(bench.folder / "tokens.zarr", sizes))
        machine = make_machine(config)
        self.bench, self.plan, self.n_epochs = bench, make_plan(store, config, machine.precision), 0
        layer = make_layer_plan(self.plan, machine, self.plan.grid.layers[0], frozenset())
        self._streams, self.regime = LayerStreams(layer, machine.device), layer.regimes[0]
        memory = partial(memory_of, self.plan, machine.device)
        self.predicted = max(needed(groups, memory) for groups in layer.passes)
        self._before, self._progress = bench.begin_peak(), FitProgress(n_cells)
        self.passes = [self._start(groups, machine.device) for groups in layer.passes]

    @property
    def n_steps(self) -> int:
        """Steps per epoch and pass."""
        return self.regime.n_steps

    def _start(self, groups: Sequence[CellGroup], device: torch.device) -> list[GroupFit]:
        recorder = make_recorder(device)
        return [start_fit(self.plan, group, device, recorder) for group in groups]

    def epoch(self) -> None:
        """Train all heads for one epoch."""
        for fits in self.passes:
            train_epoch(self.plan, fits, self._streams.train(self.regime), self.n_epochs, self._progress)
        self.n_epochs += 1

    def read(self) -> None:
        """Read the batches of one epoch to the device."""
        windows = epoch_windows(self.regime.train_rows, self.plan.data.train.info.block_rows, 0, 0)
        for _ in self._streams.train(self.regime).batches(windows, self.regime.batch_size, drop_last=True):
            pass

    def peak(self) -> int:
        """Return the peak bytes of training, including a copy of the best weights, which `fit` keeps too."""
        for fits in self.passes:
            for fit in fits:
                fit.group.keep_best([True] * len(fit.group.cells))
        self.epoch()
        return self.bench.peak() - self._before


class PlainLoop:
    """A plain training loop of one head, with the tokens on the device."""

    def __init__(self, bench: Bench) -> None:
        """Draw tokens and labels."""
        sizes, self.device = bench.sizes, bench.device
        shape = sizes.images, sizes.n_tokens, sizes.dim
        self.tokens = torch.randn(shape, dtype=torch.float16, device=self.device)
        self.labels = torch.randint(sizes.classes, (sizes.images,), device=self.device)
        head = PublishedHead("ep", sizes.dim, sizes.classes, sizes.queries)
        self.head, self.batch = head.to(self.device), sizes.batch
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=0.01, momentum=0.9)

    def epoch(self) -> None:
        """Train the head for one epoch."""
        order = torch.randperm(len(self.tokens), device=self.device)
        for rows in order.split(self.batch)[: len(order) // self.batch]:
            tokens = self.tokens[rows].bfloat16()
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = F.cross_entropy(self.head(tokens), self.labels[rows])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def ceilings(bench: Bench) -> Found:
    found, sizes = bench.ceilings, bench.sizes
    copied, side = f"{sizes.copied / 1e9:.1f} GB", f"{sizes.matrix}³, random"
    return found, [
        ("copy on the device, read + written", f"{found['copy_bytes_per_s'] / 1e12:.2f} TB/s", "", copied),
        ("bf16 matrix product", f"{found['matmul_flop_per_s'] / 1e12:.0f} TFLOP/s", "", side),
    ]


def one_head(bench: Bench) -> Found:
    ours, plain = Training(bench, 1, "gpu"), PlainLoop(bench)
    epoch, plain_epoch = bench.seconds(ours.epoch, plain.epoch)
    row = make_row("an epoch of one EP head, against a plain loop", epoch, plain_epoch)
    figures = {"epoch": epoch, "plain_epoch": plain_epoch, "n_steps": ours.n_steps, "ratios": [row]}
    behind = f"{1e3 * row['theirs']:.1f} / {1e3 * row['ours']:.1f} ms, {ours.n_steps} steps"
    return figures, [("one EP head, epoch: plain loop / ours", f"{row['ratio']['median']:.2f}", "≥ 1.5", behind)]


def cells(bench: Bench, index: int) -> Found:
    """Train many cells on tokens on the device: time, rate, memory, and the cost per head compared with reading."""
    n_cells, sizes = bench.sizes.cells[index], bench.sizes
    training = Training(bench, n_cells, "gpu")
    (epoch,) = bench.seconds(training.epoch, repeats=3)
    step, predicted, peak = median(epoch) / training.n_steps, training.predicted, training.peak()
    rate = sizes.flop * n_cells * sizes.batch / step
    figures: dict[str, Any] = {
        "epoch": epoch, "step_s": step, "flop_per_s": rate, "of_matmul": rate / bench.ceilings["matmul_flop_per_s"],
        "predicted_bytes": predicted, "peak_bytes": peak, "predicted_over_peak": predicted / peak,
        "heads_per_reading": sizes.image_bytes / DISK_RATE * n_cells * sizes.batch / step,
        "passes": [[len(fit.group.cells) for fit in fits] for fits in training.passes],
    }  # fmt: skip
    matmul = sizes.flop * n_cells * sizes.batch / bench.ceilings["matmul_flop_per_s"]
    name, steps = f"a step of {n_cells} EP cells", [each / training.n_steps for each in epoch]
    figures["ratios"] = [
        make_row(f"{name}, against a matrix product of as many operations", steps, len(steps) * [matmul]),
        make_row(f"{name}: peak memory, against the prediction", [peak], [predicted], "bytes"),
    ]
    wanted = "≥ 0.28, stretch 0.4" if index == 1 else ""
    took = f"{1e3 * step:.2f} ms per step, {rate / 1e12:.0f} TFLOP/s, {len(training.passes)} pass(es)"
    bytes_text = f"{predicted / 2**30:.2f} / {peak / 2**30:.2f} GiB"
    heads, cost = f"{figures['heads_per_reading']:.0f}", f"in steps of {n_cells}"
    lines = [
        (f"{n_cells} cells trained, of the matrix rate", f"{figures['of_matmul']:.3f}", wanted, took),
        (f"{n_cells} cells, memory: predicted / peak", f"{predicted / peak:.2f}", "0.8 to 1.25", bytes_text),
        ("heads for the price of reading at 20 GB/s", heads, "≥ 75, stretch 100", cost),
    ]
    if index == 2:
        fewer = bench.found("cells_64", "step_s")
        figures["over_fewer"] = step / fewer
        what, behind = f"{n_cells} cells / {sizes.cells[1]}, time", f"{1e3 * step:.1f} / {1e3 * fewer:.1f} ms per step"
        lines.append((what, f"{step / fewer:.2f}", "≤ 4.2", behind))
    return figures, lines


def reading(bench: Bench, cache: Cache) -> Found:
    """Read all tokens from a cache, and train one head for an epoch from it."""
    training = Training(bench, 1, cache)
    read, epoch = bench.seconds(training.read, training.epoch)
    n_bytes = training.n_steps * bench.sizes.batch * bench.sizes.image_bytes
    read_s, epoch_s, rate = median(read), median(epoch), n_bytes / median(read)
    figures = {"read": read, "epoch": epoch, "bytes": n_bytes, "bytes_per_s": rate, "read_s": read_s}
    behind = f"{1e3 * read_s:.1f} ms; an epoch of one cell {1e3 * epoch_s:.1f} ms"
    lines: list[Line] = [(f"cache={cache}, reading alone", f"{rate / 1e9:.1f} GB/s", "", behind)]
    if cache == "ram":
        disk_s = bench.found("cache_disk", "read_s")
        name = "an epoch of one cell from the RAM cache, against reading from the page cache"
        figures["ratios"] = [make_row(name, epoch, len(epoch) * [disk_s])] if disk_s > 0 else []
        what, behind = "RAM cache: epoch of one cell / reading from the page cache", "{:.1f} / {:.1f} ms"
        lines.append((what, f"{epoch_s / disk_s:.2f}", "≤ 1", behind.format(1e3 * epoch_s, 1e3 * disk_s)))
    return figures, lines


def profile(bench: Bench, index: int) -> Found:
    """Measure the kernels, launches, and host and device time per step."""
    n_cells = bench.sizes.cells[index]
    figures = profile_epoch(Training(bench, n_cells, "gpu"))
    report = [f"{key}: {value}" for key, value in figures.items() if key != "top"]
    report += [f"{one['us']:10.1f} us {one['count']:7.2f} x  {one['name']}" for one in figures["top"]]
    (bench.out / f"profile_{n_cells}.txt").write_text("\n".join(report) + "\n")
    shown = f"{figures['kernels']:.0f} kernels, {figures['launches']:.0f} launches"
    times = "host {host_ms:.2f}, device {device_ms:.2f}, both {step_ms:.2f} ms".format(**figures)
    return figures, [(f"a step of {n_cells} cell(s)", shown, "", times)]


def profile_epoch(training: Training) -> dict[str, Any]:
    """Return times and counts per step: host until all kernels are launched, device busy, and both until the end."""
    n_steps = training.n_steps * len(training.passes)
    for _ in range(2):
        training.epoch()
    training.bench.wait()
    start = time.perf_counter()
    training.epoch()
    host = time.perf_counter() - start
    training.bench.wait()
    both = time.perf_counter() - start
    with torch.profiler.profile() as profiler:
        training.epoch()
        training.bench.wait()
    events = [event for event in profiler.key_averages() if not getattr(event, "is_user_annotation", False)]
    on_device = [event for event in events if event.device_type.name == "CUDA"]
    of_device = [(e.self_device_time_total, e) for e in on_device] or [(e.self_cpu_time_total, e) for e in events]
    top = sorted(of_device, key=lambda timed: -timed[0])
    return {
        "step_ms": 1e3 * both / n_steps,
        "host_ms": 1e3 * host / n_steps,
        "device_ms": sum(us for us, _ in top) / n_steps / 1e3,
        "kernels": sum(e.count for _, e in top if not e.key.startswith("Mem")) / n_steps,
        "launches": sum(e.count for e in events if e.key.startswith("cu") and "Launch" in e.key) / n_steps,
        "top": [{"name": e.key, "us": us / n_steps, "count": e.count / n_steps} for us, e in top[:10]],
    }
