"""A repair killed at any point can be repeated, and restores the store from before the damage."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from tokenprobe.extract import extract
from tokenprobe.store.formats import store_files
from tokenprobe.store.verify import Kind, Problem, verify
from tokenprobe.testing.forks import count_steps, fork_and_kill
from tokenprobe.testing.store_kit import root_of
from tokenprobe.workflows.repair import repair

from .repair_kit import FORMATS, config_of, content_of, delete, journal_of, make_images, marks_of, some_blocks, truncate

UNSEALED: tuple[Kind, str] = (
    "unfinished",
    "not finished: it says that the store is not complete, but every file is there",
)


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in each format; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    return Path(
        extract(config_of(make_images(folder), folder / "store" / f"a.{request.param}", layers="0", dtype="float16"))
    )


def damaged_copy(whole: Path, folder: Path) -> Path:
    shutil.copytree(whole.parent, folder)
    store = folder / whole.name
    delete(store, some_blocks(store, 1, "train/layer_00/mean"))
    truncate(store, some_blocks(store, 1, "test/layer_00/patch"))
    return store


def test_a_repair_killed_anywhere_is_finished_by_the_next(whole: Path, tmp_path: Path) -> None:
    """Killed at every other rename, removal and write, including one of the two before the last root's rename."""
    events = {"os.rename", "os.remove"}
    counted = damaged_copy(whole, tmp_path / "counted")
    n_steps = count_steps(lambda: repair(counted), events)
    assert n_steps > 20
    for step in range(0, n_steps, 2):
        store = damaged_copy(whole, tmp_path / str(step))
        assert fork_and_kill(partial(repair, store), step, events)
        is_whole = content_of(whole).items() <= content_of(store).items()  # beside temporary files
        named = [problem for problem in verify(store) if problem.kind != "foreign"]
        assert bool(named) != is_whole, f"killed at step {step}: {named}"
        assert repair(store) == [], f"killed at step {step}"
        assert content_of(store) == content_of(whole), f"killed at step {step}"
        shutil.rmtree(store.parent)


def test_a_store_that_says_it_is_not_complete_though_it_is_whole_is_named_and_sealed(
    whole: Path, tmp_path: Path
) -> None:
    """The state after a kill between the journal's last record of the root and the root itself."""
    shutil.copytree(whole.parent, tmp_path / "moved")
    store = tmp_path / "moved" / whole.name
    files = store_files(store)
    manifest = files.read_manifest()
    incomplete = next(
        e["content"] for e in reversed(journal_of(store)) if e.get("content", {}).get("complete") is False
    )
    root_of(store).write_bytes(files.root_bytes(type(manifest).from_json(incomplete)))
    before, n_starts = marks_of(store), starts_of(store)
    assert verify(store) == [Problem(files.root.name, *UNSEALED)]
    assert repair(store) == verify(store) == []
    assert (content_of(store), marks_of(store)) == (content_of(whole), before)
    assert starts_of(store) == n_starts, "nothing is extracted"


def starts_of(store: Path) -> int:
    return sum(entry.get("event") == "start" for entry in journal_of(store))
