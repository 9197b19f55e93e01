"""Places where commands may write: beside stores and runs, not into them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.store.outputs import RUN_FILES, RUN_FOLDERS, check_file, check_folder, is_run, is_store
from tokenprobe.testing.store_kit import make_contents, write

Check = Callable[[str | Path], Path]
every_check = pytest.mark.parametrize("check", [check_folder, check_file])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that looks like a run in its first pass."""
    folder = tmp_path / "run"
    (folder / "heads").mkdir(parents=True)
    (folder / "config.yaml").write_text("epochs: 3\nmade_from:\n  commands: []\n")
    return folder


@every_check
@pytest.mark.parametrize("name", ["new", "new/folders/below.csv", "there", "."])
def test_other_places_are_taken(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "config.yaml").write_text("made_from: others use such a file too\n")
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    monkeypatch.chdir(tmp_path)
    assert check(name) == check(tmp_path / name).relative_to(tmp_path) == Path(name)


@every_check
@pytest.mark.parametrize("store", ["s.zarr", "s.h5"])
def test_nothing_is_written_into_a_store(check: Check, tmp_path: Path, store: str) -> None:
    write(tmp_path / store, make_contents())
    folder = tmp_path / ("s.h5.blocks" if store == "s.h5" else store)
    (tmp_path / "link").symlink_to(folder)
    assert is_store(folder) and not is_store(tmp_path)
    for inside in (folder / "x", folder / "train" / "x.csv", folder / "none" / "x.npz", tmp_path / "link" / "x"):
        with pytest.raises(InputError, match=rf"is inside the store '{folder}'; give --out a path outside of it"):
            check(inside)
    assert check(tmp_path / "s.zarr.csv") and check(folder)  # the command's own to judge


def test_a_store_with_a_damaged_manifest_is_one(tmp_path: Path) -> None:
    write(tmp_path / "s.zarr", make_contents())
    (tmp_path / "s.zarr" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="is inside the store"):
        check_folder(tmp_path / "s.zarr" / "x")


def test_no_folder_is_made_in_a_run(run: Path) -> None:
    assert is_run(run) and not is_run(run.parent)
    for inside in (run / "x", run / "heads", run / "a" / "b"):
        with pytest.raises(InputError, match=rf"is inside the run '{run}'; give --out a path outside of it"):
            check_folder(inside)
    assert check_folder(run) == run  # it may be gone on with
    (run / "config.yaml").unlink()
    for name in ("results.parquet", "history.parquet"):
        assert not is_run(run)
        (run / name).write_bytes(b"")
    assert is_run(run)


def test_a_file_may_be_beside_those_of_a_run_but_not_one_of_them(run: Path) -> None:
    for name in (*RUN_FILES, *RUN_FOLDERS, "heads/mine.npz", "figures/a/b.csv"):
        with pytest.raises(InputError, match=rf"'{run}/{name}' is a file of the run '{run}'; give --out another name"):
            check_file(run / name)
    (run.parent / "link.csv").symlink_to(run / "config.yaml")
    with pytest.raises(InputError, match="is a file of the run"):
        check_file(run.parent / "link.csv")
    assert check_file(run / "predictions.csv") and check_file(run / "mine" / "results.csv")
    assert check_file(run.parent / "results.csv")


@every_check
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("", "no path given to write to; name one with --out"),
        ("s3://bucket/run", "'s3://bucket/run' is an address"),
        ("a\0b", r"cannot write to 'a\\x00b' \(embedded null byte\); give --out another path"),
        ("\ud800", "cannot write to .* surrogates not allowed"),
        ("ä" * 128, r"\(File name too long\); give --out another path"),
        ("none/" + "b" * 256 + "/c", r"\(File name too long\); give --out another path"),
        ("file/c", r"cannot write to 'file/c' \(Not a directory\); give --out another path"),
        ("loop", r"cannot write to 'loop' \(Too many levels of symbolic links\)"),
        ("loop/c", r"cannot write to 'loop/c' \(Too many levels of symbolic links\)"),
        ("dangling", "'dangling' is a link to nothing; give --out another path"),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else "",
)
def test_what_can_be_no_path_is_refused(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(InputError, match=message):
        check(out)


@every_check
def test_a_name_may_be_as_long_as_disks_allow(check: Check, tmp_path: Path) -> None:
    assert check(tmp_path / ("ä" * 127 + "b"))
