"""Many processes: how much faster two are than one, what an engine costs per unit, and what one process costs now.

    python benchmarks/scale.py [--repeats 3] [--images 1200] [--units 1000] [--against FOLDER] [--skip-ray]

* Two single-threaded processes over one: extraction with a small ViT on the CPU, limited by computing. The ratio is of
  images per second from the first block to the last, so starting the processes and loading the model do not count.
* An engine's cost per unit: units that do nothing, in two processes.
* `--against FOLDER`: processor seconds of an extraction by one process, with the package in another folder (its
  `tokenprobe` is another checkout) over this one. Above 1, this one is faster.

All commands take turns, which spreads the noise of a shared machine over them. The table has medians and spreads.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

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


def images_per_second(n_images: int, n_processes: int, path: str | None = None) -> float:
    """Extract, and return the speed from the first recorded block to the last."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "s.zarr"
        words = ["-m", "tokenprobe", "extract", "-m", "timm:VisionTransformer", "--no-pretrained", "-d", "demo"]
        words += ["--model-arg", MODEL, "--split", "train", "--limit", str(n_images), "--batch-size", "16"]
        words += ["--block-mib", "4", "--workers", "0", "--layers", "-1", "--device", "cpu", "-o", str(out), "--quiet"]
        run(command(words, n_processes), path)
        times = sorted(file.stat().st_mtime for file in out.glob("train/layer_*/patch/c.*"))
    skipped = 2 * n_processes  # until every process is at work
    return (len(times) - skipped) * n_images / len(times) / (times[-1] - times[skipped - 1])


def cpu_seconds(n_images: int, path: str | None = None) -> float:
    """Return the processor seconds of a whole extraction by one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    images_per_second(n_images, 1, path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--against", help="folder whose tokenprobe is another checkout")
    parser.add_argument("--skip-ray", action="store_true")
    parser.add_argument("--nothing", help="run units that do nothing on this engine, and stop")
    given = parser.parse_args()
    if given.nothing:
        run_nothing(given.nothing, given.units)
        return
    rows: dict[str, Callable[[], float]] = {
        "one process, images/s": lambda: images_per_second(given.images, 1),
        "two processes, images/s": lambda: images_per_second(given.images, 2),
    }
    if given.against:
        rows["processor seconds"] = lambda: cpu_seconds(given.images)
        rows["processor seconds of the other"] = lambda: cpu_seconds(given.images, given.against)
    found = measure(rows, given.repeats)
    one = found["one process, images/s"]
    ratios = {"two processes over one": [b / a for a, b in zip(one, found["two processes, images/s"], strict=True)]}
    if given.against:
        mine, other = found["processor seconds"], found["processor seconds of the other"]
        ratios["the other over this one"] = [b / a for a, b in zip(mine, other, strict=True)]
    show(found | ratios)
    engines = ["torchrun"] if given.skip_ray else ["torchrun", "ray"]
    costs = {f"{name}, ms per unit": partial(ms_per_unit, name, given.units) for name in engines}
    show(measure(costs, given.repeats))


def show(table: dict[str, list[float]]) -> None:
    """Print the median, the least and the most of each row."""
    for name, values in table.items():
        print(f"{name:<32} {median(values):9.3f}   {min(values):.3f} to {max(values):.3f}", flush=True)


if __name__ == "__main__":
    main()
