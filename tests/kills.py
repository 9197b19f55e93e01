"""Kill commands at random moments, repeat them, and compare with undisturbed runs: nothing finished may be lost.

    python tests/kills.py --seed 0 --kills 60

Each kill takes the next scenario: a command and a store format. The command starts in a folder of its own, SIGKILL ends
it and all its processes at a seeded moment of its work, and the same command runs again. Then everything it wrote must
equal the undisturbed run, and what was finished before the kill must still be the very same files and rows.

Commands run in forks of this process, which has imported everything: a kill hits work, and not the import of torch.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py as _imported_h5py  # noqa: F401
import numpy as np
import pandas as pd
import torch
import zarr as _imported_zarr  # noqa: F401
from PIL import Image
from xxhash import xxh3_64_hexdigest

from tokenprobe.cli import main as probe
from tokenprobe.extract import pipeline as _imported_extract  # noqa: F401
from tokenprobe.probe import pipeline as _imported_probe  # noqa: F401
from tokenprobe.store.formats import store_files
from tokenprobe.store.journal import finished_files
from tokenprobe.store.temporaries import file_of
from tokenprobe.workflows import predict as _imported_workflows  # noqa: F401

MODEL = ["-m", "timm:VisionTransformer", "--no-pretrained", "--workers", "1", "--batch-size", "4"]
MODEL += ["--model-arg", "img_size=16,patch_size=4,embed_dim=12,depth=3,num_heads=2"]
FIT = ["--head", "ep:queries=2", "--head", "linear", "--head", "knn", "--epochs", "8", "--lr", "1,3", "--device", "cpu"]
NO_FUNCTION_OF_THE_INPUTS = {"journal.jsonl", ".lock"}
N_IMAGES = {"train": 60, "test": 30}
FORMATS = (".zarr", ".h5")
MOMENT = 0.002
"""Seconds between two looks at a command's output."""

Finished = dict[str, Any]
"""By the name of a file or a cell, what may not change any more."""


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        name: for people.
        words: the command's words.
        base: name of the prepared folder that it starts in a copy of.
        output: file or folder that it writes.
        outcome: returns what an undisturbed run leaves, for comparison.
        finished: returns what may not be lost, of the output that a kill leaves.
        shows_work: whether the output changes as soon as the work begins.
    """

    name: str
    words: list[str]
    base: str
    output: str
    outcome: Callable[[Path], Any]
    finished: Callable[[Path], Finished] = lambda output: {}
    shows_work: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as often as asked; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kills", type=int, default=60, help="how many")
    parser.add_argument("--only", default="", help="scenarios whose names begin so, such as fit")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(given.seed)
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        chosen = [each for each in scenarios() if each.name.startswith(given.only)]
        n_killed = n_lost = 0
        for scenario in cycle(chosen):
            killed, faults = bench.kill(scenario, rng.random())
            n_killed, n_lost = n_killed + killed, n_lost + bool(faults)
            if n_killed >= given.kills:
                break
    print(f"{n_killed} kills of {len(chosen)} commands with seed {given.seed}: {n_lost} lost something")
    return 1 if n_lost else 0


def scenarios() -> list[Scenario]:
    """Return every command in every format."""
    found = []
    for form in FORMATS:
        out, extract = f"s{form}", ["extract", *MODEL, "-d", "images", "-o", f"s{form}"]
        found += [
            Scenario(f"extract {form}", extract, "images", out, files_of, written_of),
            Scenario(f"extend {form}", [*extract, "--views", "2"], f"store{form}", out, files_of, written_of),
            Scenario(f"overwrite {form}", [*extract, "--seed", "7", "--overwrite"], f"store{form}", out, files_of),
            Scenario(f"repair {form}", ["verify", out, "--repair"], f"damaged{form}", out, files_of, written_of),
            Scenario(f"fit {form}", ["fit", out, "-o", "run", *FIT], f"store{form}", "run", run_of, cells_of),
            Scenario(f"export npy {form}", ["export", out, "-o", "e", "--to", "npy"], f"store{form}", "e", files_of),
            Scenario(f"export archive {form}", ["export", out, "-o", "e.zarr"], f"store{form}", "e.zarr", files_of),
        ]
    predict = ["predict", "run", "--images", "images/test", "-o", "p.csv", "--device", "cpu"]
    return [*found, Scenario("predict", predict, "run", "p.csv", lambda output: output.read_text(), shows_work=False)]


class Bench:
    """Prepared folders, and how long each command takes and what it leaves when nobody disturbs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undisturbed: dict[str, tuple[Any, float]] = {}

    def _base(self, name: str) -> Path:
        """Return a prepared folder; it is made when it is first asked for."""
        folder = self._folder / name
        if folder.exists():
            return folder
        kind, form = folder.stem, folder.suffix
        if kind == "images":
            make_images(folder / "images")
        elif kind == "store":
            self._prepare(name, "images", ["extract", *MODEL, "-d", "images", "-o", f"s{form}"])
        elif kind == "damaged":
            shutil.copytree(self._base(f"store{form}"), folder)
            damage(folder / f"s{form}")
        else:
            one_head = ["--head", "linear", "--layers", "-1", "--lr", "1", "--epochs", "2", "--device", "cpu"]
            self._prepare(name, "store.zarr", ["fit", "s.zarr", "-o", "run", *one_head])
        return folder

    def _prepare(self, name: str, base: str, words: list[str]) -> None:
        """Run a command in a copy of a folder, which is kept for others to start in."""
        folder = Path(shutil.copytree(self._base(base), self._folder / name))
        assert run(words, folder) == 0, (folder / "log").read_text()

    def kill(self, scenario: Scenario, when: float) -> tuple[bool, list[str]]:
        """Kill a command once, repeat it, and compare; return whether it was killed at work, and what is wrong."""
        expected, seconds = self._without_disturbance(scenario)
        folder = Path(shutil.copytree(self._base(scenario.base), self._folder / "killed"))
        output = folder / scenario.output
        watched = output if scenario.shows_work else None
        status = run(scenario.words, folder, watched, kill_after=when * seconds)
        killed = status == -signal.SIGKILL
        finished = scenario.finished(output) if output.exists() else {}
        status = run(scenario.words, folder) if killed else status
        faults = [] if status == 0 else [f"status {status}: {(folder / 'log').read_text()[-500:]}"]
        if status == 0:
            after = scenario.finished(output)
            faults += [f"lost or made again: {name}" for name in finished if finished[name] != after.get(name)]
            faults += [] if scenario.outcome(output) == expected else ["it differs from an undisturbed run"]
        what = "killed" if killed else "done before it was killed"
        line = f"{scenario.name}: {what} after {when * seconds:.3f} of {seconds:.3f} s, {len(finished)} finished"
        print(line, *faults, sep="; ", flush=True)
        shutil.rmtree(folder)
        return killed, faults

    def _without_disturbance(self, scenario: Scenario) -> tuple[Any, float]:
        """Return the outcome, and the seconds from the first sign of work to the end."""
        if scenario.name not in self._undisturbed:
            folder = Path(shutil.copytree(self._base(scenario.base), self._folder / "undisturbed"))
            output, begun = folder / scenario.output, [0.0]
            watched = output if scenario.shows_work else None
            assert run(scenario.words, folder, watched, begun=begun) == 0, (folder / "log").read_text()
            self._undisturbed[scenario.name] = scenario.outcome(output), time.monotonic() - begun[-1]
            shutil.rmtree(folder)
        return self._undisturbed[scenario.name]


def run(
    words: list[str],
    folder: Path,
    watched: Path | None = None,
    *,
    kill_after: float | None = None,
    begun: list[float] | None = None,
) -> int:
    """Run a command of probe in a fork; return its exit status, -9 if it was killed.

    Args:
        words: of the command.
        folder: to run in; its output goes to a file named log.
        watched: output that shows by a change that the work has begun; if None, it begins at once.
        kill_after: seconds from then to the kill; never if None.
        begun: takes the time of that change.
    """
    begun = [] if begun is None else begun
    before, n_given = signs_of(watched), len(begun)
    process = os.fork()
    if process == 0:
        _become(words, folder)
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if len(begun) == n_given and (watched is None or signs_of(watched) != before):
            begun.append(time.monotonic())
        if len(begun) > n_given and kill_after is not None and time.monotonic() >= begun[-1] + kill_after:
            os.killpg(process, signal.SIGKILL)
            ended = os.waitpid(process, 0)
            break
        time.sleep(MOMENT)
    return os.waitstatus_to_exitcode(ended[1])


def _become(words: list[str], folder: Path) -> None:
    """Turn this fork into a command of its own process group."""
    os.setsid()
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    status = 1
    try:
        status = probe(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def signs_of(output: Path | None) -> list[tuple[str, int, int]]:
    """Return what changes when a command begins to write: its output, and what is made beside it meanwhile."""
    if output is None:
        return []
    growing = [path for path in output.parent.iterdir() if file_of(path.name) == output.name]
    near = [output, output.with_name(f"{output.name}.blocks"), *growing]
    found = [path for path in (*near, *(path / "journal.jsonl" for path in near)) if path.exists()]
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in found]


def make_images(folder: Path) -> None:
    """Write class folders of small images for two splits."""
    rng = np.random.default_rng(0)
    for split, n_images in N_IMAGES.items():
        for number in range(n_images):
            label = number % 3
            pixels = rng.integers(0, 256, (16, 16, 3)) // 2 + 40 * label
            path = folder / split / f"class {label}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def damage(store: Path) -> None:
    """Cut, flip and remove some of the files of a store."""
    files = store_files(store)
    names = sorted(name for name in finished_files(files.folder) if name.startswith("train/layer_0"))
    for place, name in enumerate(names[:: len(names) // 6]):
        path = files.folder / name
        assert isinstance(path, Path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink() if place % 3 == 0 else path.write_bytes(data if place % 3 == 1 else data[:-1])


def files_of(output: Path) -> dict[str, bytes]:
    """Return all files of a store or an export whose bytes are a function of the inputs."""
    folders = [output, output.with_name(f"{output.name}.blocks")]
    found = [file for folder in folders for file in (folder, *folder.rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(output.parent)): file.read_bytes()
        for file in found
        if file.name not in NO_FUNCTION_OF_THE_INPUTS
    }


def written_of(output: Path) -> Finished:
    """Return size, inode and time of the files of blocks that a store's journal records and that are whole."""
    folder = store_files(output).folder
    assert isinstance(folder, Path)
    whole = {
        name: (folder / name).stat()
        for name, record in finished_files(folder).items()
        if "/layer_" in name and not name.endswith("zarr.json") and hash_of(folder / name) == record.xxh3
    }
    return {name: (about.st_size, about.st_ino, about.st_mtime_ns) for name, about in whole.items()}


def hash_of(path: Path) -> str:
    return xxh3_64_hexdigest(path.read_bytes())


def run_of(output: Path) -> dict[str, Any]:
    """Return the rows of a run but for its times, and the weights of its heads."""
    heads = {file.name: file.read_bytes() for file in (output / "heads").iterdir()}
    return {**rows_of(output), **heads}


def rows_of(output: Path) -> dict[str, Any]:
    path = output / "results.parquet"
    table = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=["cell"])
    kept = table.drop(columns=[name for name in table.columns if name.endswith("seconds")])
    return {str(row.pop("cell")): row for row in kept.astype(object).where(kept.notna(), None).to_dict("records")}


def cells_of(output: Path) -> Finished:
    """Return the rows of finished cells; which one is selected may change as others come."""
    return {cell: {**row, "selected": None} for cell, row in rows_of(output).items()}


if __name__ == "__main__":
    sys.exit(main())
