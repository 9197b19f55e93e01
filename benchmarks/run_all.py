"""Run the benchmarks of docs/benchmarks.md at a reduced setting, and write their tables. Use a quiet machine.

    python benchmarks/run_all.py [NAME …] [--reference PATH] [--dinov2 PATH] [--capi PATH]

Each writes benchmarks/results/DATE-NAME.jsonl once it is complete, and is compared with the results that were committed
last. One that fails leaves its rows in DATE-NAME.jsonl.partial, which no table shows. Without a checkout, the rows that
need one keep their last results.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import tables  # the files beside this one
from rows import RESULTS

ROOT = RESULTS.parents[1]
SETTINGS = {
    "extract": ["--images", "64", "--repeats", "3"],
    "store": ["--gib", "0.5", "--repeats", "5"],
    "formats": ["--gib", "0.25", "--repeats", "3"],
    "heads": ["--images", "8", "--repeats", "5"],
    "sweep": ["--images", "1024", "--epochs", "5", "--repeats", "2"],
    "plain": ["one_head", "step", "first_fit", "knn", "logreg", "ridge_100:", "--repeats", "3"],
    "published": ["--repeats", "3"],
    "startup": ["imports", "ep", "--repeats", "5"],
    "memory": ["--gib", "2"],
}
"""The flags of each benchmark."""
CHECKOUTS = {"reference": "sweep", "dinov2": "published", "capi": "published"}


def main() -> int:
    """Return the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*SETTINGS], help=", ".join(SETTINGS))
    for flag, benchmark in CHECKOUTS.items():
        parser.add_argument(f"--{flag}", type=Path, help=f"checkout for {benchmark}.py")
    given = parser.parse_args()
    if unknown := set(given.names) - set(SETTINGS):
        parser.error(f"unknown names: {', '.join(sorted(unknown))}; known: {', '.join(SETTINGS)}")
    failed = 0
    for name in given.names:
        flags = SETTINGS[name] + [
            word
            for flag, benchmark in CHECKOUTS.items()
            if benchmark == name and getattr(given, flag)
            for word in (f"--{flag}", str(getattr(given, flag).resolve()))
        ]
        file = RESULTS / f"{time.strftime('%Y-%m-%d')}-{name}.jsonl"
        done = run([f"benchmarks/{name}.py", *flags, "--json", str(file.relative_to(ROOT))])
        if done:
            run(["benchmarks/compare.py", str(file)])
        failed += not done
    tables.main()
    return failed


def run(words: list[str]) -> bool:
    """Run a script in the root of the repository, and return whether it succeeded."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    print(f"took {time.perf_counter() - start:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
