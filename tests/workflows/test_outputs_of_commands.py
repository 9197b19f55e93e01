"""Every command that writes refuses a place inside a store or a run, before any work, and changes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.cli import main
from tokenprobe.store import Store

from ..probe.kit import fit_made, write_made

MODEL = "-m timm:VisionTransformer --no-pretrained --model-arg img_size=16,patch_size=8,embed_dim=8,depth=1,num_heads=2"
EXTRACT = f"extract {MODEL} -d folder:images"
FIT = "fit s.zarr --heads linear --lr 1 --epochs 1 --device cpu"


@pytest.fixture
def folder(write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the store s.zarr and the run `run`. Other inputs of the commands do not exist."""
    store = write_made(write_store, tmp_path / "s.zarr")
    fit_made(store, tmp_path / "run", heads=["linear"], layers="0", lr=[1.0], epochs=1)
    (tmp_path / "file").write_text("kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{EXTRACT} -o s.zarr/sub.zarr", "inside the store"),
        (f"{EXTRACT} -o s.zarr/sub.h5 --dry-run", "inside the store"),
        (f"{EXTRACT} -o run/sub.zarr", "inside the run"),
        (f"{EXTRACT} -o ''", "--out '': expected text"),
        (f"{FIT} -o s.zarr", "'s.zarr' is a store; give --out another folder for the run"),
        (f"{FIT} -o s.zarr --dry-run", "'s.zarr' is a store"),
        (f"{FIT} -o s.zarr/sub", "inside the store"),
        (f"{FIT} -o run/sub --dry-run", "inside the run"),
        (f"{FIT} -o file", "'file' is a file; give --out a folder for the run"),
        (f"{FIT} -o file --dry-run", "'file' is a file"),
        (f"{FIT} -o file/sub", "Not a directory"),
        (f"{FIT} -o ''", "--out '': expected text"),
        ("export s.zarr -o s.zarr/sub --to npy", "inside the store"),
        ("export s.zarr -o run/sub.zarr", "inside the run"),
        ("export s.zarr -o '' --to npy", "--out '': expected text"),
        ("export s.zarr -o s.zarr", "exists, and an export"),
        ("predict run --images file -o run/results.csv", "'run/results.csv' is a file of the run"),
        ("predict run --images file -o run/heads/x.npz", "'run/heads/x.npz' is a file of the run"),
        ("predict run --images file -o s.zarr/x.csv", "inside the store"),
        ("predict run --images file -o ''", "--out '': expected text"),
        ("demo -o s.zarr/sub", "inside the store"),
        ("demo -o run", "inside the run"),
        ("demo -o file", "Not a directory"),
        ("demo -o ''", "no path given to write to; name one with --out"),
    ],
)
def test_a_wrong_place_is_refused_in_one_line(
    folder: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    argv = [part if part != "''" else "" for part in line.split()]
    assert main(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1) and message in said.err
    assert contents(folder) == before
