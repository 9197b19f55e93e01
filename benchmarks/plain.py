"""Small fits against plain scripts: what a researcher would write with torch or scikit-learn for one purpose.

    python benchmarks/plain.py [ROW …] [--store STORE --layer N] [--repeats 5] [--json FILE]

Both sides use one thread and take turns in one process. Their times are CPU seconds of the process, since other
programs may use the machine. Without `--store` the demo's data and backbone make one. `first_fit` starts a fresh
process for each side. ROW is the first word of a row's name, or its beginning: `step`, `knn`, `logreg`.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from plain_cases import Vectors, cases  # the files beside this one
from rows import Row, cpu_seconds, make_parser, make_row, report, take_turns
from stand_ins import make_demo_store
from threadpoolctl import threadpool_limits


def measure(given: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        store = given.store or make_demo_store(Path(folder) / "demo.zarr", layers="5", device="cpu")
        for name, make in cases(Vectors(store, given.layer, Path(folder))):
            if not given.rows or any(name.startswith(each) for each in given.rows):
                ours, theirs = make()
                found = take_turns({"ours": ours, "theirs": theirs}, given.repeats, clock=cpu_seconds)
                yield make_row(name, found["ours"], found["theirs"], "CPU s")


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("rows", nargs="*", help="names, or the beginnings of names; all by default")
    parser.add_argument("--store", type=Path, help="a store with mean vectors, and the splits train and test")
    parser.add_argument("--layer", type=int, default=5)
    given = parser.parse_args()
    report("plain", measure(given), given.json)


if __name__ == "__main__":
    main()
