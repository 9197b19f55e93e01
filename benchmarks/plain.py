"""Small fits against plain scripts: what a researcher would write with torch or scikit-learn for one purpose.

    python benchmarks/plain.py [ROW …] [--store STORE --layer N] [--repeats 5] [--json FILE]

Both sides use one thread and take turns in one process. Their times are CPU seconds of the process, since other
programs may use the machine. A ratio above 1 means that the plain script takes longer. Without `--store` the demo's
data and backbone make one. `first_fit` starts a fresh process for each side.

| row | ours against |
|---|---|
| `one_head` | a fit of one linear head, 90 epochs, from store to report, against a loop with `torch.optim.SGD` |
| `step_H_C` | a step of H linear cells with C classes against H single heads, one after the other |
| `low_shot` | a fit of 5 sizes × 5 subsets × 6 rates against the same loop, one head after the other |
| `first_fit` | `probe fit` of one head and rate, in a new process, against a script that imports torch |
| `knn_bank` | 1,000 queries in a bank of 50,000 × 384, 1,000 classes, against one product, `topk` and `scatter_add` |
| `knn_small` | the test split in the bank of the training split, against votes as one-hot labels (DINOv2's order) |
| `logreg_K` | a fit of 45 strengths on 3 subsets of K images a class against scikit-learn, one at a time |
| `ridge_N` | 10 penalties on N images, one a class, 3,072 wide, against the N × N system of each penalty |
"""

import argparse
import json
import logging
import resource
import statistics
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from plain_cases import Case, Side, Vectors, cases  # the file beside this one
from threadpoolctl import threadpool_limits

from tokenprobe.extract import ExtractConfig, extract


def cpu_seconds(side: Side) -> float:
    """Return the CPU seconds of this process and of the processes that it started."""

    def now() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    start = now()
    side()
    return now() - start


def compare(name: str, case: Case, repeats: int) -> dict[str, Any]:
    cpu_seconds(case[0]), cpu_seconds(case[1])  # libraries load
    times = [(cpu_seconds(case[0]), cpu_seconds(case[1])) for _ in range(repeats)]
    ratios = [theirs / ours for ours, theirs in times]
    ours, theirs = (statistics.median(side) for side in zip(*times, strict=True))
    return {
        "name": name, "ours_s": ours, "theirs_s": theirs, "repeats": repeats,
        "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
    }  # fmt: skip


def make_demo_store(path: Path) -> Path:
    architecture = {"img_size": 28, "patch_size": 4, "embed_dim": 128, "depth": 6, "num_heads": 4}
    weights = str(files("tokenprobe") / "assets" / "fashion_mae_vit128d6p4.safetensors")
    model: dict[str, Any] = {"model": "timm:VisionTransformer", "model_arg": architecture, "checkpoint": weights}
    extract(ExtractConfig(**model, data="demo", out=path, layers="5", device="cpu"))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names, or the beginnings of names; all by default")
    parser.add_argument("--store", type=Path, help="a store with mean vectors, and the splits train and test")
    parser.add_argument("--layer", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable(logging.INFO)
    found = []
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        store = arguments.store or make_demo_store(Path(folder) / "demo.zarr")
        for name, make in cases(Vectors(store, arguments.layer, Path(folder))):
            if not arguments.rows or any(name.startswith(each) for each in arguments.rows):
                found.append(compare(name, make(), arguments.repeats))
                print(json.dumps(found[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(row) + "\n" for row in found))
    print("\n| row | ours | plain | plain / ours (least to most) |\n|---|--:|--:|--:|")
    for row in found:
        ratio = row["ratio"]
        seconds = f"{row['ours_s']:.3f} s | {row['theirs_s']:.3f} s"
        print(f"| `{row['name']}` | {seconds} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) |")


if __name__ == "__main__":
    main()
