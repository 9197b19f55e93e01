"""Peak memory of a fit and of reading, each in a fresh process, beyond what its imports take.

    python benchmarks/memory.py [--gib 6] [--folder FOLDER] [--json FILE]

A store holds that much of tokens (196 × 384, float16) of one layer. A fit trains one head `ep:queries=16` for an epoch
from the disk. Its peak is compared with that of a plain script, which loads all tokens and makes a few steps of the
same head, and with the bound that follows from the dry run's estimate. Reading a shuffled epoch is compared with the
size of the tokens. One measurement each.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, make_parser, make_row, report  # the files beside this one
from stand_ins import IMAGE_BYTES, draw_tokens, write_store

from tokenprobe.probe import FitConfig
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.planning.estimate import estimate
from tokenprobe.probe.planning.layer_plan import make_layer_plan
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.store import open_store

PEAK = """
import json, sys
import numpy as np, torch
{imports}

def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

before, path = resident("VmRSS"), sys.argv[1]
{work}
print(resident("VmHWM") - before)
"""
"""A program that prints the peak of its memory beyond its imports, in bytes."""

FIT = {
    "imports": "from tokenprobe.probe import FitConfig, pipeline",
    "work": "pipeline.fit([path], FitConfig(**json.loads(sys.argv[2])))",
}
READ = {
    "imports": "from tokenprobe.store import open_store\nfrom store import shuffled",
    "work": 'shuffled(open_store(path)["train"])()',
}
PLAIN = {
    "imports": "from published_heads import PublishedHead",
    "work": """
tokens = torch.from_numpy(np.load(path))
labels = torch.zeros(len(tokens), dtype=torch.long)
head = PublishedHead("ep", tokens.shape[2], 1, 16)
optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
for rows in torch.randperm(len(tokens)).split(256)[:8]:
    torch.nn.functional.cross_entropy(head(tokens[rows].float()), labels[rows]).backward()
    optimizer.step()
    optimizer.zero_grad()
""",
}


def peak_bytes(program: dict[str, str], *arguments: str) -> int:
    """Run a program in a process of its own; return the peak of its memory beyond its imports."""
    command = [sys.executable, "-c", PEAK.format(**program), *arguments]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent).stdout
    return int(shown.splitlines()[-1])


def write_array(path: Path, n: int) -> None:
    """Write the tokens as one .npy file, without holding them in memory."""
    values = draw_tokens()
    array = np.lib.format.open_memmap(path, "w+", np.float16, (n, *values.shape[1:]))
    for start in range(0, n, len(values)):
        array[start : start + len(values)] = values[: n - start]
    array.flush()


def bound(store: Path, config: FitConfig) -> int:
    """Return the memory that a fit may need, from the dry run's estimate: two windows, and 300 MiB of slack."""
    machine = make_machine(config)
    plan = make_plan(open_store(store), config, machine.precision)
    announced = estimate(make_layer_plan(plan, machine, LayerSet((0,)), frozenset()), machine, {})
    return 2 * announced.windows + announced.training + 300 * 2**20


def measure(gib: float, parent: Path | None) -> Iterator[Row]:
    n, work = int(gib * 2**30 / IMAGE_BYTES), f"peak memory of a fit from {gib:g} GiB on the disk, against"
    with tempfile.TemporaryDirectory(dir=parent) as name:
        folder = Path(name)
        store, array = folder / "s.zarr", folder / "tokens.npy"
        write_store(store, {"train": n, "test": 512}, draw_tokens())
        settings: dict[str, Any] = {"heads": ["ep:queries=16"], "lr": [0.1], "epochs": 1, "cache": "disk"}
        settings |= {"device": "cpu", "out": f"{folder}/run"}
        ours, reading = [peak_bytes(FIT, str(store), json.dumps(settings))], [peak_bytes(READ, str(store))]
        limit = bound(store, FitConfig(**settings | {"out": f"{folder}/planned"}))
        write_array(array, n)
        yield make_row(
            f"{work} a plain script with all tokens in memory", ours, [peak_bytes(PLAIN, str(array))], "bytes"
        )
    yield make_row(f"{work} the bound of the dry run", ours, [limit], "bytes")
    name = f"peak memory of reading a shuffled epoch of {gib:g} GiB, against the size of the tokens"
    yield make_row(name, reading, [n * IMAGE_BYTES], "bytes")


def main() -> None:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--gib", type=float, default=6)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    report("memory", measure(given.gib, given.folder), given.json)


if __name__ == "__main__":
    main()
