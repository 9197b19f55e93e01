"""Repair names every change to a store's files, and restores the original bytes."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from timm.models import VisionTransformer

from tokenprobe.errors import LockedError, MissingError, StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.runtime import progress
from tokenprobe.store import open_store
from tokenprobe.store.formats import store_files
from tokenprobe.store.lock import StoreLock
from tokenprobe.store.verify import Kind, Problem, verify
from tokenprobe.testing.store_kit import folder_of, root_of
from tokenprobe.workflows.repair import N_SHOWN, check, repair, summary

from .repair_kit import (
    FORMATS,
    TINY,
    Found,
    block_names,
    config_of,
    content_of,
    delete,
    files_of,
    journal_of,
    make_images,
    marks_of,
    some_blocks,
    truncate,
)

N_ROUNDS, N_FLIPS = 5, 10
FLIPPED: tuple[Kind, str] = ("damaged", "damaged: its bytes differ from those that were written")
MISSING: tuple[Kind, str] = ("missing", "missing")
UNFINISHED: tuple[Kind, str] = ("unfinished", "not finished: the journal does not record it")
FOREIGN: tuple[Kind, str] = ("foreign", "foreign: nothing declares it")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two views in each format; not to be changed. Its int8 tokens bring every kind of array."""
    return Path(extract(config_of(images, tmp_path_factory.mktemp("whole") / f"a.{request.param}")))


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy for damaging. Its path differs, so repair is tested on a moved store."""
    shutil.copytree(whole.parent, tmp_path / "moved")
    return tmp_path / "moved" / whole.name


def assert_mended(store: Path, whole: Path, hit: set[str], before: dict[str, tuple[int, int]]) -> None:
    """All bytes equal those of the complete store, and undamaged files are untouched."""
    assert content_of(store) == content_of(whole)
    assert verify(store) == []
    assert open_store(store).manifest.complete
    after = marks_of(store)
    assert {name: mark for name, mark in after.items() if name not in hit} == {
        name: mark for name, mark in before.items() if name not in hit
    }


# --- files that are not as they were written ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(N_ROUNDS))
def test_one_flipped_byte_in_each_of_fifty_random_places_is_found_and_mended(
    store: Path, whole: Path, seed: int
) -> None:
    """Ten places per round, four of them in small files: metadata, labels, ids, statistics; every other round the root.

    The journal is left out, because its bytes do not depend only on the inputs. Damaged lines have their own test.
    """
    rng = np.random.default_rng(seed)
    files, before, root = files_of(store), marks_of(store), root_of(store).name
    blocks = block_names(store)
    small = sorted(files.keys() - blocks - {root})
    hit = {*rng.choice(small, 4 - (seed + 1) % 2, replace=False), *rng.choice(sorted(blocks), 6, replace=False)}
    hit |= {root} if seed % 2 == 0 else set()
    assert len(hit) == N_FLIPS
    for name in hit:
        data = bytearray(files[name].read_bytes())
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        overwrite(files[name], data)
    assert verify(store) == [Problem(name, *FLIPPED) for name in sorted(hit)]
    assert repair(store) == []
    assert_mended(store, whole, hit, before)


def overwrite(file: Path, data: bytes | bytearray) -> None:
    """Write in place: the inode stays."""
    with open(file, "r+b") as opened:
        opened.write(data)


def swap(store: Path, names: list[str]) -> Found:
    one, other = (files_of(store)[name] for name in names[:2])
    one.rename(one.with_suffix(".between"))
    other.rename(one)
    one.with_suffix(".between").rename(other)
    return dict.fromkeys(names[:2], FLIPPED)


def replace_by_foreign(store: Path, names: list[str]) -> Found:
    """Replace a block with the same block of a store with another seed."""
    config = next(e["config"] for e in journal_of(store) if e.get("event") == "start")
    other = Path(extract(replace(ExtractConfig(**config), seed=1, out=store.with_name("other" + store.suffix))))
    shutil.copy(files_of(other)[names[0]], files_of(store)[names[0]])
    return {names[0]: FLIPPED}


def delete_root(store: Path, names: list[str]) -> Found:
    root = root_of(store)
    root.unlink()
    return {root.name: MISSING}


def delete_labels_and_ids(store: Path, names: list[str]) -> Found:
    return delete(store, [name for name in files_of(store) if name.startswith(("train/ids", "test/labels"))])


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize("damage", [truncate, swap, replace_by_foreign, delete, delete_root, delete_labels_and_ids])
def test_what_is_cut_swapped_replaced_or_gone_is_named_and_mended(
    store: Path, whole: Path, damage: Callable[[Path, list[str]], Found], capsys: pytest.CaptureFixture[str]
) -> None:
    before = marks_of(store)
    problems = damage(store, some_blocks(store, 2))
    assert verify(store) == [Problem(name, *found) for name, found in sorted(problems.items())]
    assert repair(store) == []
    assert_mended(store, whole, set(problems), before)
    shown = capsys.readouterr().err.splitlines()
    assert all(f"{name}: {what}" in shown for name, (_, what) in problems.items())


def test_a_renamed_file_is_made_again_and_stays_under_its_new_name(store: Path, whole: Path) -> None:
    before = marks_of(store)
    (name,) = some_blocks(store, 1)
    file = files_of(store)[name]
    file.rename(file.with_name("renamed"))
    foreign = Problem(f"{name.rpartition('/')[0]}/renamed", *FOREIGN)
    assert verify(store) == sorted([Problem(name, *MISSING), foreign], key=lambda problem: problem.file)
    assert repair(store) == [foreign]
    file.with_name("renamed").unlink()
    assert_mended(store, whole, {name}, before)


def test_what_a_killed_writer_left_is_removed_and_other_foreign_files_are_not(store: Path, whole: Path) -> None:
    before = marks_of(store)
    (name,) = some_blocks(store, 1)
    folder = folder_of(store)
    for left in (f"{name}.tmp", f"{name}.tmp.tmp", "notes.tmp", "notes.txt"):
        (folder / left).write_bytes(b"mine")
    stay = [Problem(left, *FOREIGN) for left in ("notes.tmp", "notes.txt", f"{name}.tmp.tmp")]
    assert repair(store) == stay
    assert not (folder / f"{name}.tmp").exists()
    for problem in stay:
        assert (folder / problem.file).read_bytes() == b"mine"
        (folder / problem.file).unlink()
    assert_mended(store, whole, set(), before)


def test_a_damaged_line_of_the_journal_is_found_and_mended(store: Path, whole: Path) -> None:
    names = [*some_blocks(store, 1), store_files(store).whole_names("test/ids")[0]]
    before = marks_of(store)
    journal = folder_of(store) / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for name in names:
        (place,) = (index for index, line in enumerate(lines) if f'"{name}"'.encode() in line)
        lines[place] = lines[place].replace(b'"file"', b'"fi\xffe"')
    journal.write_bytes(b"".join(lines))
    assert verify(store) == [Problem(name, *UNFINISHED) for name in sorted(names)]
    assert repair(store) == []
    assert_mended(store, whole, set(names), before)


def test_a_whole_store_is_left_alone(store: Path) -> None:
    root = root_of(store)
    before = marks_of(store), root.stat().st_mtime_ns, journal_of(store)
    assert repair(store) == []
    assert (marks_of(store), root.stat().st_mtime_ns, journal_of(store)) == before


# --- what cannot be mended ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("messages")
def test_of_many_problems_repair_shows_the_first(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(block_names(store))[: N_SHOWN + 3]
    delete(store, names)
    repair(store)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.endswith((": missing", " more"))]
    assert shown == [*(f"{name}: missing" for name in names[:N_SHOWN]), "… and 3 more"]


def test_a_store_that_is_being_written_is_left_alone(store: Path) -> None:
    delete(store, some_blocks(store, 1))
    with (
        StoreLock(folder_of(store)),
        pytest.raises(LockedError, match="is being written by process"),
    ):
        repair(store)


def test_without_a_journal_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no journal at '.*/none\.zarr/journal\.jsonl', so it is unknown how"):
        repair(tmp_path / "none.zarr")
    assert list(tmp_path.iterdir()) == []


def test_without_a_record_of_an_extraction_the_user_is_asked_to_run_it(store: Path) -> None:
    journal = folder_of(store) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"config"', b'"confis"'))
    delete(store, some_blocks(store, 1))
    with pytest.raises(StoreError, match=r"records no extraction to run again; run the probe extract that made it$"):
        repair(store)


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": "x"}, {"tokens": [1]}, {"model_arg": [1]}, {"nonsense": 1}, {"model": None}],
)
def test_settings_of_another_type_are_no_record_of_an_extraction(store: Path, changes: dict[str, object]) -> None:
    entries = [
        entry | ({"config": entry["config"] | changes} if "config" in entry else {}) for entry in journal_of(store)
    ]
    journal = folder_of(store) / "journal.jsonl"
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    delete(store, some_blocks(store, 1))
    with pytest.raises(StoreError, match="records no extraction to run again"):
        repair(store)


def test_data_that_are_gone_are_named_and_nothing_is_removed(images: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(images, tmp_path / "moved.npz"))
    out = Path(extract(config_of(moved, tmp_path / "a.zarr", layers="0")))
    moved.unlink()
    (out / "notes.txt").write_text("mine")
    assert [problem.file for problem in repair(out)] == ["notes.txt"]  # which takes no data
    truncate(out, some_blocks(out, 1, "train/layer_00"))
    before = content_of(out)
    message = rf"^cannot repair: the data were 'npz:{moved}': no file at '{moved}'; .*; put them back$"
    with pytest.raises(MissingError, match=message):
        repair(out)
    assert content_of(out) == before


def test_weights_that_are_gone_are_named_and_nothing_is_removed(images: Path, tmp_path: Path) -> None:
    weights = tmp_path / "a.safetensors"
    save_file(VisionTransformer(num_classes=0, **TINY).state_dict(), weights)
    out = Path(extract(config_of(images, tmp_path / "a.zarr", layers="0", checkpoint=weights, no_pretrained=False)))
    truncate(out, some_blocks(out, 1, "train/layer_00"))
    weights.unlink()
    before = content_of(out)
    with pytest.raises(MissingError, match=rf"^cannot repair: the weights were '{weights}'; put them back$"):
        repair(out)
    assert content_of(out) == before


def test_a_repair_that_is_refused_leaves_a_store_that_says_it_is_not_complete(images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copy(images, tmp_path / "data.npz"))
    out = Path(extract(config_of(data, tmp_path / "a.zarr", layers="0")))
    arrays = dict(np.load(data))
    np.savez(data, **arrays | {"x_train": arrays["x_train"] + np.uint8(1)})
    truncate(out, some_blocks(out, 1, "train/layer_00"))
    with pytest.raises(StoreError, match=r"the store was made differently \(train\.source: stored "):
        repair(out)
    assert not open_store(out).manifest.complete


def test_what_to_do_depends_on_what_is_wrong_and_on_the_journal(store: Path) -> None:
    folder, root = folder_of(store), root_of(store)
    mend, cannot = (
        f"mend it with probe verify --repair {store}",
        "--repair cannot mend it, since no journal records how",
    )
    foreign, lost = Problem("notes", *FOREIGN), Problem("train/labels", *MISSING)
    assert summary(store, [foreign]).startswith(f"'{store}': 1 file has a problem; remove foreign files by hand")
    assert summary(store, [foreign, lost]) == f"'{store}': 2 files have problems; {mend}"
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"config"', b'"exported_config"'))
    assert summary(store, [lost]).startswith(f"'{store}': 1 file has a problem; {cannot}")
    assert summary(store, [Problem(root.name, *MISSING)]).endswith(mend), "the journal has a copy of it"


def test_a_root_alone_is_mended_without_an_extraction(store: Path, whole: Path) -> None:
    journal = folder_of(store) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"config"', b'"exported_config"'))
    for damage in (lambda root: root.unlink(), lambda root: root.write_bytes(b"junk")):
        damage(root_of(store))
        assert repair(store) == []
        assert content_of(store) == content_of(whole)


# --- progress -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(store)
    total = sum(file.stat().st_size for file in files_of(store).values())
    total -= root_of(store).stat().st_size
    shown = capsys.readouterr().err
    assert "verify" in shown and "━" in shown
    assert f"{total / 1000:.1f}/{total / 1000:.1f} kB" in shown


@pytest.mark.usefixtures("messages")
def test_elsewhere_there_is_a_line_now_and_then(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(store)
    assert capsys.readouterr() == ("", ""), "it took less than ten seconds"
    monkeypatch.setattr(progress, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(progress, "PAUSE_SHARE", 0.0)
    check(store)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"verify ([\d.]+ kB) of \1  [\d.]+ .?B/s  0 s left", last), last


@pytest.mark.usefixtures("messages")
def test_data_that_are_gone_are_told_before_the_store_is_read(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copy(images, tmp_path / "moved.npz"))
    out = Path(extract(config_of(moved, tmp_path / "a.zarr", layers="0")))
    moved.unlink()
    capsys.readouterr()
    assert repair(out) == [], "nothing is damaged, so nothing is needed"
    (first,) = capsys.readouterr().err.splitlines()
    assert first.startswith("cannot repair: the data were 'npz:") and first.endswith("it may be intact")
