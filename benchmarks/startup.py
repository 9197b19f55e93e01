"""The start of a fit, and a fit on a busy machine, as ratios within one run.

    python benchmarks/startup.py [imports busy ep] [--repeats 5] [--store tokenprobe-demo/fashion_mae.zarr]

imports: a dry run of the demo's grid against `import torch` alone, and the time from torch's import to the end of the
first step of a small head. busy: a fit of two small heads beside a process per core that keeps it busy, against alone,
with several lengths of OpenMP's spin. ep: 24 cells of `ep:queries=8` on tokens 64 × 192, against the published order,
one head at a time. Sides take turns. Each line is JSON: medians, and the ratio with its smallest and largest value. CPU
seconds hardly depend on other programs; wall-clock seconds mean something on a quiet machine only. Without `--store`
the demo's store is made first.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.runtime.threads import OWN_CHOICES, SPIN
from tokenprobe.workflows.demo import ARCHITECTURE, WEIGHTS

HEADS = ["--head", "ep:queries=8", "--head", "linear:pool=cls", "--head", "linear:pool=mean"]
FIRST_STEP = """
import sys, time
import torch
start = time.perf_counter(), time.process_time()
from tokenprobe.cli import main
from tokenprobe.probe.training.group import Group
make_step = Group.train_batch

def noted(*arguments):
    make_step(*arguments)
    print(time.perf_counter() - start[0], time.process_time() - start[1])
    sys.stdout.flush()
    import os
    os._exit(0)

Group.train_batch = noted
import tokenprobe.probe.planning.memory as memory
rehearse = memory._rehearse

def quiet(*arguments):
    Group.train_batch = make_step
    try:
        return rehearse(*arguments)
    finally:
        Group.train_batch = noted

memory._rehearse = quiet
main(sys.argv[1:])
"""


def measure(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[float, float, str]:
    """Return the CPU seconds, the wall-clock seconds and the output of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, done.stdout


def show(name: str, above: Sequence[float], below: Sequence[float], unit: str, better: str = "less") -> None:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    spread = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
    row = {"name": name, "unit": unit, "above": median(above), "below": median(below), "ratio": spread}
    print(json.dumps(row | {"better": better}))


def imports(store: Path, folder: Path, repeats: int) -> None:
    dry = [sys.executable, "-m", "tokenprobe", "fit", str(store), "-o", f"{folder}/dry", *HEADS]
    dry += ["--epochs", "30", "--dry-run", "--device", "cpu"]
    first = [sys.executable, "-c", FIRST_STEP, "fit", str(store), "-o", f"{folder}/first", *HEADS[:2]]
    found = [(measure(dry), measure([sys.executable, "-c", "import torch"])) for _ in range(repeats)]
    for place, unit in enumerate(("CPU s", "wall s")):
        dry_runs, torch_alone = ([float(each[side][place]) for each in found] for side in (0, 1))
        show(f"dry run / import torch, {unit}", dry_runs, torch_alone, unit)
    steps = [[float(word) for word in measure([*first, "--quiet"])[2].split()[:2]] for _ in range(repeats)]
    walls, cpus = zip(*steps, strict=True)
    spread = {"wall s": [min(walls), median(walls), max(walls)], "CPU s": [min(cpus), median(cpus), max(cpus)]}
    print(json.dumps({"name": "from torch's import to the end of the first step", **spread}))


@contextmanager
def busy_cores() -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def busy(store: Path, folder: Path, repeats: int) -> None:
    own = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES}
    number = 0

    def fit(setting: dict[str, str]) -> float:
        nonlocal number
        number += 1
        command = [sys.executable, "-m", "tokenprobe", "fit", str(store), "-o", f"{folder}/busy{number}"]
        command += [
            *HEADS[:2],
            "--head",
            "linear",
            "--layers",
            "5",
            "--epochs",
            "2",
            "--lr",
            "1,3",
            "--device",
            "cpu",
            "--quiet",
        ]
        return measure(command, own | setting)[1]

    settings: dict[str, dict[str, str]] = {
        f"the command's, {SPIN}": {},
        "OpenMP's own, 300000": {"GOMP_SPINCOUNT": "300000"},
        "2000": {"GOMP_SPINCOUNT": "2000"},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    }
    beside, alone = ({name: list[float]() for name in settings} for _ in range(2))
    for _ in range(repeats):
        for name, setting in settings.items():
            alone[name].append(fit(setting))
            with busy_cores():
                beside[name].append(fit(setting))
    for name in settings:
        show(f"a fit beside busy cores / alone, spin {name}", beside[name], alone[name], "wall s")


class Published(nn.Module):
    """EP in the published order: every token is projected, then weighted."""

    def __init__(self, dim: int, n_queries: int, n_classes: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(n_queries, dim))
        self.value = nn.Linear(dim, dim, bias=False)
        self.norm, self.classifier = nn.BatchNorm1d(dim, affine=False, eps=1e-6), nn.Linear(dim, n_classes)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return logits (B, C)."""
        maps_BQN = (self.queries @ x_BND.transpose(1, 2) * x_BND.shape[2] ** -0.5).softmax(2)
        values_BNQK = self.value(x_BND).unflatten(2, (len(self.queries), -1))
        return self.classifier(self.norm(torch.einsum("bqn,bnqk->bqk", maps_BQN, values_BNQK).flatten(1)))


def ep(repeats: int, n_cells: int = 24, n_images: int = 256, dim: int = 192, n_classes: int = 10) -> None:
    torch.set_num_threads(1)
    (spec,) = parse_heads(["ep:queries=8"])
    cells = [
        Cell("b", LayerSet((0,)), spec, "sgd", 0.1 * (1 + number % 6), 0.0, "full", number // 6)
        for number in range(n_cells)
    ]
    setup = GroupSetup(TokenShape((8, 8), dim, 0), n_classes, n_images, torch.device("cpu"), "float32")
    group = Group(cells, setup)
    tokens, labels = torch.randn(n_images, 64, dim), torch.randint(n_classes, (n_images,))
    heads = [Published(dim, 8, n_classes) for _ in range(n_cells)]
    optimizers = [torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9) for head in heads]

    def one_by_one() -> None:
        for head, optimizer in zip(heads, optimizers, strict=True):
            nn.functional.cross_entropy(head(tokens), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def seconds(step: Callable[[], Any]) -> float:
        start = time.process_time()
        step()
        return time.process_time() - start

    def together() -> None:
        group.train_batch(TokenBatch({"patch": tokens}, labels), 0.1)

    pairs = [(seconds(one_by_one), seconds(together)) for _ in range(repeats + 1)][1:]
    theirs, ours = zip(*pairs, strict=True)
    show("24 EP cells: published order, one at a time / together", theirs, ours, "CPU s", "more")


def make_store(path: Path) -> Path:
    weights = Path(__file__).parents[1] / "assets" / WEIGHTS
    flags: dict[str, Any] = {"model": "timm:VisionTransformer", "model_arg": ARCHITECTURE, "checkpoint": weights}
    extract(ExtractConfig(data="demo", out=path, **flags))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["imports", "busy", "ep"], help="imports, busy or ep")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store", type=Path, help="of the demo")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in arguments.parts:
            if part == "ep":
                ep(arguments.repeats)
                continue
            arguments.store = arguments.store or make_store(folder / "demo.zarr")
            {"imports": imports, "busy": busy}[part](arguments.store, folder, arguments.repeats)


if __name__ == "__main__":
    main()
