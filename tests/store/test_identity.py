"""A reader asks whether its store is still the one it opened. In both formats, compressed, and at an address."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import Store, open_store
from tokenprobe.store.export import export_store, select
from tokenprobe.store.objects import Bucket, ObjectPath
from tokenprobe.testing.store_kit import (
    ALL,
    blocks,
    folder_of,
    journal_lines,
    make_contents,
    root_of,
    write,
    write_some,
)

from .test_library import copy_store

Place = Callable[[str], Path]


def assert_changed(store: Store) -> None:
    message = (
        f"^the store {str(store.path)!r} was made anew, grown, moved or removed after it was opened, .*; run the same"
    )
    with pytest.raises(StoreError, match=message):
        store.check_unchanged()


def test_a_store_that_is_left_alone_is_unchanged(place: Place) -> None:
    store = open_store(write(place("s"), make_contents()))
    for _ in range(3):
        store.check_unchanged()


def test_a_store_made_anew_is_another_though_its_bytes_are_the_same(place: Place) -> None:
    """Images of equal names and sizes give equal manifests: only the journals differ."""
    contents, path = make_contents(), place("s")
    store = open_store(write(path, contents))
    before = root_of(path).read_bytes()
    write(path, contents, overwrite=True)
    assert root_of(path).read_bytes() == before
    assert_changed(store)
    open_store(path).check_unchanged()


def test_a_store_is_another_as_soon_as_it_begins_to_be_made_anew(place: Place) -> None:
    from tokenprobe.store.claim import empty
    from tokenprobe.store.formats import store_files

    path = write(place("s"), make_contents())
    store = open_store(path)
    empty(store_files(path))
    assert_changed(store)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_store_that_is_gone_or_replaced_by_another_is_changed(place: Place, swapped: bool) -> None:
    path, other = (write(place(name), make_contents()) for name in ("a", "b"))
    store = open_store(path)
    shutil.rmtree(path.parent)
    if swapped:
        other.parent.rename(path.parent)
    assert_changed(store)


def test_a_store_that_grows_is_the_same(place: Place) -> None:
    contents, path = make_contents(), place("s")
    small = contents.part({"train": {"layer_00": ["mean"]}})
    one = {name: replace(info, views=1, augmentation=None) for name, info in small.manifest.splits.items()}
    store = open_store(write(path, replace(small, manifest=replace(small.manifest, splits=one))))
    write_some(path, contents, blocks(contents.manifest)[:2])
    store.check_unchanged()
    write(path, contents)
    store.check_unchanged()


def test_a_store_whose_rows_move_is_another(place: Place) -> None:
    contents, path = make_contents(), place("s")
    store = open_store(write_some(path, contents, blocks(contents.manifest)[:2]))
    write(path, contents.without("train", [9]))
    assert_changed(store)


def test_a_copy_without_a_journal_is_known_by_its_fingerprints(place: Place) -> None:
    path = write(place("s"), make_contents())
    (folder_of(path) / "journal.jsonl").unlink()
    store = open_store(path)
    store.check_unchanged()
    other = make_contents()
    recipe = replace(other.manifest.recipe, weights="1" * 64)
    write(path, replace(other, manifest=replace(other.manifest, recipe=recipe)), overwrite=True)
    (folder_of(path) / "journal.jsonl").unlink()
    assert_changed(store)


def test_a_store_of_an_earlier_version_has_its_first_settings_for_a_mark(place: Place) -> None:
    path = write(place("s"), make_contents())
    journal = folder_of(path) / "journal.jsonl"
    journal.write_bytes(b'{"event": "start", "time": "2026-01-01T00:00:00+0000"}\n' + journal.read_bytes())
    store = open_store(path)
    store.check_unchanged()
    write(path, make_contents().part({"test": {"layer_00": ALL}}))
    store.check_unchanged()
    journal.write_bytes(journal.read_bytes().replace(b"00:00:00", b"00:00:01"))
    assert_changed(store)


def test_stores_begin_with_numbers_of_their_own(place: Place) -> None:
    marks = [journal_lines(write(place(name), make_contents()))[0] for name in ("a", "b")]
    assert [(mark["event"], len(mark["id"])) for mark in marks] == [("made", 32)] * 2
    assert marks[0] != marks[1]


def test_an_archive_that_is_exported_again_is_another(tmp_path: Path) -> None:
    source, out = open_store(write(tmp_path / "s.zarr", make_contents())), tmp_path / "out.zarr"
    export_store(source, out, "zarr", select(source, "zarr"))
    archive = open_store(out)
    archive.check_unchanged()
    shutil.rmtree(out)
    export_store(source, out, "zarr", select(source, "zarr"))
    assert_changed(archive)


@pytest.mark.parametrize("with_journal", [False, True])
def test_a_store_at_an_address_is_asked_too(tmp_path: Path, with_journal: bool) -> None:
    path = write(tmp_path / "s", make_contents())
    address = f"memory://{tmp_path.name}/{with_journal}"
    upload(path, address, with_journal)
    store = open_store(address)
    store.check_unchanged()
    write(path, make_contents(), overwrite=True)
    upload(path, address, with_journal)
    if with_journal:
        assert_changed(store)
    else:
        store.check_unchanged()
        (ObjectPath(Bucket(address)) / "zarr.json").unlink()
        assert_changed(store)


def upload(path: Path, address: str, with_journal: bool) -> None:
    """Copy a store with zarr, or as plain files."""
    if with_journal:
        for file in (file for file in path.rglob("*") if file.is_file()):
            (ObjectPath(Bucket(address)) / file.relative_to(path)).write(file.read_bytes())
    else:
        copy_store(path, address, {"compressors": None})
