"""Commands as people give them: alone, in shares, and under torchrun. They are real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenprobe.store import open_store
from tokenprobe.store.journal import read_records
from tokenprobe.store.verify import verify

PATIENCE = 120.0
"""Seconds until a command that should be over counts as hanging."""
NOT_INPUTS_ALONE = {"journal.jsonl", ".lock"}
EXTRACT = [
    "extract", "-m", "timm:VisionTransformer", "--no-pretrained", "-d", "demo", "--workers", "1", "--limit", "320",
    "--batch-size", "16", "--device", "cpu",
    "--model-arg", "img_size=28,patch_size=4,embed_dim=96,depth=4,num_heads=2",
]  # fmt: skip


def probe(words: Sequence[str]) -> list[str]:
    """Return the command line of one process."""
    return [sys.executable, "-m", "tokenprobe", *words]


def torchrun(words: Sequence[str], n_processes: int, *, max_restarts: int = 0) -> list[str]:
    """Return the command line of several processes."""
    how = ["--standalone", f"--nproc-per-node={n_processes}", f"--max-restarts={max_restarts}"]
    return [sys.executable, "-m", "torch.distributed.run", *how, "-m", "tokenprobe", *words]


def start(command: Sequence[str]) -> "subprocess.Popen[str]":
    """Start a command in a group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for a command; return its status, its results and its messages."""
    try:
        out, error = process.communicate(timeout=PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, error


def run(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a command to its end."""
    return end(start(command))


def wait_until(holds: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Wait for a condition while a command runs."""
    until = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


def ranks_of(agent: "subprocess.Popen[str]") -> dict[int, int]:
    """Return the process of each rank that a torchrun has started."""
    found: dict[int, int] = {}
    for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        try:
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [int(each[5:]) for each in variables if each.startswith(b"RANK=")]
        found |= {rank: int(child) for rank in ranks}
    return found


def n_blocks(store: Path) -> int:
    """Return how many block files are recorded."""
    return sum("layer_" in name for name in read_records(store) if not name.endswith(".json"))


def files_of(store: Path) -> dict[str, bytes]:
    """Return the files of a store that depend on the inputs alone."""
    found = (file for file in store.rglob("*") if file.is_file() and file.name not in NOT_INPUTS_ALONE)
    return {str(file.relative_to(store)): file.read_bytes() for file in found}


def check_whole(store: Path, expected: dict[str, bytes]) -> None:
    """Check that a store is complete, intact, and equal to one process's, with nothing left over."""
    assert open_store(store).manifest.complete
    assert verify(store) == []
    found = files_of(store)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
