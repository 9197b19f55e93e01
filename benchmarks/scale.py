"""Many processes: how much faster two are than one, what an engine costs per unit, and what one process costs now.

    python benchmarks/scale.py [--repeats 3] [--images 1200] [--units 1000] [--against FOLDER] [--skip-ray]

* Two single-threaded processes over one: extraction with a small ViT on the CPU, limited by computing. The ratio is of
  seconds per image from the first block to the last, so starting the processes and loading the model do not count.
* An engine's cost per unit: units that do nothing, in two processes. This is no ratio: it is printed, and not kept.
* `--against FOLDER`: processor seconds of an extraction by one process, against the package in another folder (its
  `tokenprobe` is another checkout).

All commands take turns.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from rows import Row, cpu_seconds, make_parser, make_row, report  # the file beside this one

from tokenprobe.engines import make_engine
from tokenprobe.engines.contract import Tell, Worker

MODEL = "img_size=56,patch_size=4,embed_dim=192,depth=6,num_heads=3"
HERE = str(Path(__file__).resolve())


class Nothing:
    """Makes workers that do nothing with a unit."""

    @contextmanager
    def __call__(self) -> Iterator[Worker]:
        """Make a worker in this process."""

        def work(units: Iterator[int], tell: Tell) -> None:
            for _ in units:
                tell(1, 0)

        yield work


def run_nothing(engine: str, n_units: int) -> None:
    """Run units that do nothing, and print the seconds per unit."""
    from scale import Nothing as Importable  # by other processes, as the class of a script is not

    times: list[float] = []

    def tell(done: int, _: int) -> None:
        if done:
            times.append(time.perf_counter())

    with make_engine(engine) as made:
        if not made.leads:
            made.serve()
            return
        made.run(list(range(n_units)), Importable(), tell)
    done = times[-1] - times[len(times) // 10]  # the first units wait for the workers to start
    print(f"per unit {done / (n_units * 0.9):.9f}")


def command(words: Sequence[str], n_processes: int) -> list[str]:
    """Return the command line that runs a module or script in one process or under torchrun."""
    if n_processes == 1:
        return [sys.executable, *words]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", *words]


def run(words: Sequence[str], path: str | None = None) -> str:
    """Run a command with one thread per process; return what it prints."""
    path = os.pathsep.join([path or os.environ.get("PYTHONPATH", ""), str(Path(HERE).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def seconds_per_image(n_images: int, n_processes: int, path: str | None = None) -> float:
    """Extract, and return the seconds per image from the first recorded block to the last."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "s.zarr"
        words = ["-m", "tokenprobe", "extract", "-m", "timm:VisionTransformer", "--no-pretrained", "-d", "demo"]
        words += ["--model-arg", MODEL, "--split", "train", "--limit", str(n_images), "--batch-size", "16"]
        words += ["--block-mib", "4", "--workers", "0", "--layers", "-1", "--device", "cpu", "-o", str(out), "--quiet"]
        run(command(words, n_processes), path)
        times = sorted(file.stat().st_mtime for file in out.glob("train/layer_*/patch/c.*"))
    skipped = 2 * n_processes  # until every process is at work
    return (times[-1] - times[skipped - 1]) * len(times) / (len(times) - skipped) / n_images


def extraction_cpu_seconds(n_images: int, path: str | None = None) -> float:
    """Return the processor seconds of a whole extraction by one process."""
    before = cpu_seconds()
    seconds_per_image(n_images, 1, path)
    return cpu_seconds() - before


def ms_per_unit(engine: str, n_units: int) -> float:
    """Return an engine's cost of a unit that does nothing, in milliseconds."""
    words = [HERE, "--nothing", engine, "--units", str(n_units)]
    shown = run(command(words, 2 if engine == "torchrun" else 1))
    return 1000 * float(re.findall(r"per unit ([\d.e-]+)", shown)[0])


def measure(rows: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Take every row in turns."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, take in rows.items():
            found[name].append(take())
    return found


def ratios(given: argparse.Namespace) -> Iterator[Row]:
    """Take all measurements in turns, and yield the rows."""
    calls: dict[str, Callable[[], float]] = {
        "one": lambda: seconds_per_image(given.images, 1),
        "two": lambda: seconds_per_image(given.images, 2),
    }
    if given.against:
        calls["this"] = lambda: extraction_cpu_seconds(given.images)
        calls["other"] = lambda: extraction_cpu_seconds(given.images, given.against)
    found = measure(calls, given.repeats)
    yield make_row("extraction by two processes, per image, against one process", found["two"], found["one"])
    if given.against:
        yield make_row("extraction by one process, against another checkout", found["this"], found["other"], "CPU s")


def main() -> None:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--against", help="folder whose tokenprobe is another checkout")
    parser.add_argument("--skip-ray", action="store_true")
    parser.add_argument("--nothing", help="run units that do nothing on this engine, and stop")
    given = parser.parse_args()
    if given.nothing:
        run_nothing(given.nothing, given.units)
        return
    report("scale", ratios(given), given.json)
    engines = ["torchrun"] if given.skip_ray else ["torchrun", "ray"]
    for name, values in measure({each: partial(ms_per_unit, each, given.units) for each in engines}, 3).items():
        print(f"{name}: {median(values):.3f} ms per unit ({min(values):.3f} to {max(values):.3f})", flush=True)


if __name__ == "__main__":
    main()
