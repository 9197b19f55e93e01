"""Both stages on one GPU, as ratios within one run, and the tests that need a GPU.

    python benchmarks/gpu.py --out results [--only ceilings,cells_64] [--skip-tests]

Needs one CUDA device and the package. It makes its own images and stores, and takes about four minutes on an H200 with
16 cores. A failed measurement is recorded, and the next one begins. After each measurement, `gpu.json` (all numbers),
`gpu.jsonl` (the ratios, as the other benchmarks write them) and `gpu.md` (the table) are written to the output folder,
so a kill loses only the current measurement.

ceilings: a large copy and a large matrix product.
one_head: an epoch of one EP head against a plain loop of that head.
cells_64, cells_256: stacked EP heads: their rate, their memory against the prediction, and the number of heads that
    train while a disk of 20 GB/s delivers the tokens.
cache_disk, cache_ram, cache_gpu: a pass over a store, and an epoch of one head.
profile_1, profile_64: kernels, launches, host and device time per step; `profile_N.txt` lists the top ten kernels.
extract_exact, extract_fast: one layer of 20,000 images against the bare backbone, the decoders alone and a raw durable
    write, for each kind of decoding; the loader alone against the decoders; the waiting times of the main process.
extract_all: all layers against a raw durable write.
tests: the tests marked `gpu`; their log is `tests.log`.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_bench import CORES, TINY, Bench, Found, Line, Sizes
from rows import describe_run, write_lines  # the files beside this one

from tokenprobe.runtime.device import resolve_device

ROOT = Path(__file__).parents[1]
ROWS: dict[str, tuple[Any, ...]] = {
    "ceilings": ("gpu_fit", "ceilings"),
    "one_head": ("gpu_fit", "one_head"),
    "cells_64": ("gpu_fit", "cells", 1),
    "cells_256": ("gpu_fit", "cells", 2),
    "cache_disk": ("gpu_fit", "reading", "disk"),
    "cache_ram": ("gpu_fit", "reading", "ram"),
    "cache_gpu": ("gpu_fit", "reading", "gpu"),
    "profile_1": ("gpu_fit", "profile", 0),
    "profile_64": ("gpu_fit", "profile", 1),
    "extract_exact": ("gpu_extract", "one_layer", "exact"),
    "extract_fast": ("gpu_extract", "one_layer", "fast"),
    "extract_all": ("gpu_extract", "all_layers"),
    "tests": ("__main__", "run_tests"),
}
"""The file and the function of each measurement, and its argument. A file is imported with its first measurement, so a
failed import costs no other file's measurements."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for the results")
    parser.add_argument("--folder", type=Path, help="folder for stores and images, on the disk to measure; takes 21 GB")
    parser.add_argument("--only", type=read_names, default=[*ROWS], metavar="NAME,…", help=", ".join(ROWS))
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--test-seconds", type=float, default=90, help="time limit of the tests")
    parser.add_argument("--images", type=int, default=Sizes.images, help="images in the token store")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        print("benchmarks/gpu.py measures a CUDA device, and torch finds none", file=sys.stderr)
        sys.exit(2)
    names = [name for name in arguments.only if not (name == "tests" and arguments.skip_tests)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder, ignore_cleanup_errors=True) as folder:
        device, sizes = resolve_device(arguments.device), TINY if arguments.tiny else Sizes(images=arguments.images)
        measure(Bench(device, sizes, Path(folder), arguments.out.resolve(), arguments.test_seconds), names)


def read_names(text: str) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names).difference(ROWS))
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; expected some of {', '.join(ROWS)}")
    return [name for name in ROWS if name in names]


def measure(bench: Bench, names: list[str]) -> None:
    """Measure the rows in order, writing the files after each. Print the table at the end, or when stopped."""
    run, lines = describe_run("gpu"), list[Line]()
    about = circumstances(bench.device, run)
    try:
        for name in names:
            start = time.perf_counter()
            figures, found = attempt(bench, name)
            bench.figures[name] = figures | {"took_s": time.perf_counter() - start}
            lines += found
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
            content = {"about": about, "sizes": vars(bench.sizes), "rows": bench.figures}
            (bench.out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
            (bench.out / "gpu.md").write_text(table(about, lines) + "\n")
            ratios = [row for each in bench.figures.values() for row in each.get("ratios", [])]
            write_lines(bench.out / "gpu.jsonl", [run, *ratios])
    finally:
        print(table(about, lines), flush=True)


def attempt(bench: Bench, name: str) -> Found:
    """Measure one row. An error becomes its result, so that the other rows still run."""
    module, function, *argument = ROWS[name]
    try:
        bench.release()
        row: Found = getattr(import_module(module), function)(bench, *argument)
        return row
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".replace("|", "/").split())
        return {"error": traceback.format_exc()[-4000:]}, [(name, "failed", "", text[:160])]


def run_tests(bench: Bench) -> Found:
    """Run the tests marked `gpu` in their own processes, with a time limit. The log gets each test as it ends.

    Tests of memory have the device to themselves. The others share it.
    """
    alone, start, log = "tests/probe/planning", time.perf_counter(), bench.out / "tests.log"
    parts = [[alone], ["-n", str(min(8, CORES)), "tests", f"--ignore={alone}"]] if find_spec("xdist") else [["tests"]]
    foreign = ["-p", "no:cacheprovider", *(["-p", "no:benchmark"] if find_spec("pytest_benchmark") else [])]
    command, ended = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-m", "gpu", *foreign], list[str]()
    with log.open("w") as file:
        for part in parts:
            try:
                left = max(1.0, bench.test_seconds - (time.perf_counter() - start))
                run = subprocess.run([*command, *part], cwd=ROOT, stdout=file, stderr=file, timeout=left)
                ended.append(f"exit {run.returncode}")
            except subprocess.TimeoutExpired:
                ended.append("stopped")
    seconds, text, code = time.perf_counter() - start, log.read_text(), ", ".join(ended)
    counts = {word: text.count(f" {word.upper()} ") for word in ("passed", "failed", "error", "skipped")}
    counted = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    figures = {"seconds": seconds, "ended": code, "tail": text.splitlines()[-60:], **counts}
    return figures, [("tests marked gpu", counted or "none", "all pass", f"{seconds:.0f} s, {code}")]


def circumstances(device: torch.device, run: dict[str, Any]) -> dict[str, str]:
    """Return the date, the device's name, and the versions."""
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if on_gpu else 0
    return {
        "date": run["date"],
        "device": f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB)" if on_gpu else "CPU: means nothing",
        "cores": str(CORES),
        "driver": driver_version(),
        "CUDA": str(torch.version.cuda),
        **run["versions"],
    }


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return "none"


def table(about: dict[str, str], lines: list[Line]) -> str:
    """Return the rows in Markdown, below a line with date, device and versions."""
    header: list[Line] = [("figure", "found", "wanted", "numbers"), ("---", "--:", "--:", "---")]
    rows = [f"| {' | '.join(line)} |" for line in (*header, *lines)]
    return "\n".join([", ".join(f"{key} {value}" for key, value in about.items()), "", *rows])


if __name__ == "__main__":
    main()
