"""The start of a fit, and a fit on a busy machine, as ratios within one run.

    python benchmarks/startup.py [imports busy ep] [--repeats 5] [--store STORE] [--json FILE]

imports: `import torch` alone, against a dry run of the demo's grid, and against the time from torch's import to the end
of the first step of a small head. busy: a fit of two small heads alone, against the same fit beside a process per core
that keeps it busy, with several lengths of OpenMP's spin. ep: 24 cells of `ep:queries=8` on tokens 64 × 192, against
the published order, one head at a time. Sides take turns. CPU seconds hardly depend on other programs. Wall-clock
seconds need a quiet machine. Without `--store` a part of the demo's images makes one.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from published_heads import PublishedHead  # the files beside this one
from rows import Row, cpu_seconds, make_parser, make_row, report, take_turns
from stand_ins import make_demo_store
from torch import nn

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.runtime.threads import OWN_CHOICES, SPIN

HEADS = ["--head", "ep:queries=8", "--head", "linear:pool=cls", "--head", "linear:pool=mean"]
SMALL_FIT = ["--head", "linear", "--layers", "5", "--epochs", "2", "--lr", "1,3", "--device", "cpu", "--quiet"]
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
    cpu, start = cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return cpu_seconds() - cpu, time.perf_counter() - start, done.stdout


def imports(store: Path, folder: Path, repeats: int) -> Iterator[Row]:
    fit = [sys.executable, "-m", "tokenprobe", "fit", str(store)]
    dry = [*fit, "-o", f"{folder}/dry", *HEADS, "--epochs", "30", "--dry-run", "--device", "cpu"]
    first = [sys.executable, "-c", FIRST_STEP, *fit[3:], "-o", f"{folder}/first", *HEADS[:2], "--quiet"]
    ours: dict[str, list[tuple[float, float]]] = {"a dry run": [], "torch's import to the first step": []}
    torch_alone = list[tuple[float, float]]()
    for _ in range(repeats):
        torch_alone.append(measure([sys.executable, "-c", "import torch"])[:2])
        ours["a dry run"].append(measure(dry)[:2])
        wall, cpu = map(float, measure(first)[2].split()[:2])
        ours["torch's import to the first step"].append((cpu, wall))
    for name, times in ours.items():
        for place, unit, clock in ((0, "CPU s", "CPU time"), (1, "s", "wall-clock time")):
            own, theirs = ([pair[place] for pair in each] for each in (times, torch_alone))
            yield make_row(f"{name}, {clock}, against `import torch`", own, theirs, unit)


@contextmanager
def busy_cores() -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def busy(store: Path, folder: Path, repeats: int) -> Iterator[Row]:
    own = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES}
    number = 0

    def fit(setting: dict[str, str]) -> float:
        nonlocal number
        number += 1
        command = [sys.executable, "-m", "tokenprobe", "fit", str(store), "-o", f"{folder}/busy{number}"]
        return measure([*command, *HEADS[:2], *SMALL_FIT], own | setting)[1]

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
        yield make_row(f"a fit beside busy cores, spin {name}, against the fit alone", beside[name], alone[name])


def ep(repeats: int, n_cells: int = 24, n_images: int = 256, dim: int = 192, n_classes: int = 10) -> Iterator[Row]:
    torch.set_num_threads(1)
    (spec,) = parse_heads(["ep:queries=8"])
    cells = [
        Cell("b", LayerSet((0,)), spec, "sgd", 0.1 * (1 + number % 6), 0.0, "full", number // 6)
        for number in range(n_cells)
    ]
    setup = GroupSetup(TokenShape((8, 8), dim, 0), n_classes, n_images, torch.device("cpu"), "float32")
    group = Group(cells, setup)
    tokens, labels = torch.randn(n_images, 64, dim), torch.randint(n_classes, (n_images,))
    heads = [PublishedHead("ep", dim, n_classes, 8) for _ in range(n_cells)]
    optimizers = [torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9) for head in heads]

    def one_by_one() -> None:
        for head, optimizer in zip(heads, optimizers, strict=True):
            nn.functional.cross_entropy(head(tokens), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def together() -> None:
        group.train_batch(TokenBatch({"patch": tokens}, labels), 0.1)

    found = take_turns({"theirs": one_by_one, "ours": together}, repeats, clock=cpu_seconds)
    name = f"a step of {n_cells} EP cells, against the published order, one head at a time"
    yield make_row(name, found["ours"], found["theirs"], "CPU s")


def measure_parts(parts: Sequence[str], store: Path | None, repeats: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in parts:
            if part == "ep":
                yield from ep(repeats)
                continue
            store = store or make_demo_store(folder / "demo.zarr", limit=512)
            yield from {"imports": imports, "busy": busy}[part](store, folder, repeats)


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("parts", nargs="*", default=["imports", "busy", "ep"], help="imports, busy or ep")
    parser.add_argument("--store", type=Path, help="of the demo")
    given = parser.parse_args()
    report("startup", measure_parts(given.parts, given.store, given.repeats), given.json)


if __name__ == "__main__":
    main()
