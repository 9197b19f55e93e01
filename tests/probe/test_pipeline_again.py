"""A command given again: a run with nothing left to train is read and not touched."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.store import Store

from .kit import fit_made, write_made

SAID = "nothing to train: every cell of this command is in the run"


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of everything below a folder."""
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in [folder, *folder.rglob("*")]}


def test_a_run_with_nothing_left_is_not_touched(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = fit_made(store, tmp_path / "run", layers="0")
    before = state_of(run.path)
    caplog.set_level("INFO", "tokenprobe")
    again = fit_made(store, tmp_path / "run", layers="0", lr=[10.0])  # a part of it
    assert caplog.messages == [SAID]
    assert state_of(run.path) == before and again.results.equals(run.results)


def test_a_run_with_nothing_left_takes_what_importing_takes(store: Store, tmp_path: Path) -> None:
    """Figures, and the compiler that torch loads to draw weights without values, take seconds."""
    heads = ["ep:queries=4", "siglip:heads=2", "linear", "ridge"]
    fit_made(store, tmp_path / "run", heads=heads, lr=[1.0])
    code = (
        "import sys\nimport tokenprobe\nfrom tokenprobe.probe import FitConfig, fit\ntokenprobe.show_progress()\n"
        f"config = FitConfig(out={str(tmp_path / 'run')!r}, heads={heads!r}, lr=[1.0],\n"
        "    epochs=4, batch_size=16, device='cpu')\n"
        f"fit({str(store.path)!r}, config)\n"
        "slow = {'matplotlib', 'torch._dynamo'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, SAID + "\n")


@pytest.mark.parametrize("lost", ["summary.md", "report.html", "figures/layer_curve.png"])
def test_a_report_that_is_missing_is_written(store: Store, tmp_path: Path, lost: str) -> None:
    run = fit_made(store, tmp_path / "run", layers="0")
    content = (run.path / lost).read_bytes()
    (run.path / lost).unlink()
    fit_made(store, tmp_path / "run", layers="0")
    assert (run.path / lost).read_bytes() == content


def test_a_report_of_earlier_results_is_written_anew(store: Store, tmp_path: Path) -> None:
    """The fit was killed behind its last result and before its report."""
    run = fit_made(store, tmp_path / "run", layers="0")
    earlier = (run.path / "summary.md").read_bytes()
    fit_made(store, tmp_path / "run")
    later = (run.path / "summary.md").read_bytes()
    (run.path / "summary.md").write_bytes(earlier)
    fit_made(store, tmp_path / "run")
    assert (run.path / "summary.md").read_bytes() == later != earlier
