"""Verification names every changed file, and no other. In both formats."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import MissingError, StoreError
from tokenprobe.store.formats import store_files
from tokenprobe.store.verify import Kind, Problem, verify
from tokenprobe.testing.store_kit import block_path, blocks, folder_of, make_contents, root_of, write, write_some

DAMAGED: tuple[Kind, str] = ("damaged", "damaged: its bytes differ from those that were written")
MISSING: tuple[Kind, str] = ("missing", "missing")
UNFINISHED: tuple[Kind, str] = ("unfinished", "not finished: the journal does not record it")
FOREIGN: tuple[Kind, str] = ("foreign", "foreign: nothing declares it")
Place = Callable[[str], Path]


def files_of(path: Path) -> list[Path]:
    """Return every file that is verified, the root among them."""
    own = {"journal.jsonl", ".lock"}
    below = {file for file in folder_of(path).rglob("*") if file.is_file() and file.name not in own}
    return sorted({root_of(path)} | below)


def name_of(path: Path, file: Path) -> str:
    return file.name if file == root_of(path) else str(file.relative_to(folder_of(path)))


def test_a_whole_store_has_no_problems_and_all_of_it_is_read(place: Place) -> None:
    path = write(place("s"), make_contents("int8"))
    sizes: list[int] = []
    assert verify(path, sizes.append) == []
    assert sorted(sizes) == sorted(file.stat().st_size for file in files_of(path) if file != root_of(path))


def test_one_flipped_bit_anywhere_is_found(place: Place) -> None:
    """Fifty places: of every kind of file, the root among them."""
    path = write(place("s"), make_contents())
    rng = np.random.default_rng(0)
    files = rng.permutation(np.array(files_of(path), dtype=object))[:49].tolist()
    for file in [root_of(path), *files]:
        data = file.read_bytes()
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        assert verify(path) == [Problem(name_of(path, file), *DAMAGED)]
        file.write_bytes(data)
    assert verify(path) == []


def test_what_is_cut_grown_missing_or_foreign_is_named(place: Place) -> None:
    path = write(place("s"), make_contents())
    cut, grown, lost = (block_path(path, "train/layer_03/patch", 1, block) for block in range(3))
    foreign = block_path(path, "train/layer_03/patch", 0, 9)
    size = cut.stat().st_size
    os.truncate(cut, size - 1)
    os.truncate(grown, size + 1)
    lost.unlink()
    foreign.write_bytes(b"")
    labels = folder_of(path) / store_files(path).whole_names("train/labels")[-1]
    labels.unlink()
    (folder_of(path) / "notes.txt").write_text("mine")
    assert set(verify(path)) == {
        Problem("notes.txt", *FOREIGN),
        Problem(name_of(path, labels), *MISSING),
        Problem(name_of(path, cut), "damaged", f"damaged: {size - 1} bytes, {size} when it was written"),
        Problem(name_of(path, grown), "damaged", f"damaged: {size + 1} bytes, {size} when it was written"),
        Problem(name_of(path, lost), *MISSING),
        Problem(name_of(path, foreign), *FOREIGN),
    }


def test_swapped_and_renamed_files_are_named(place: Place) -> None:
    path = write(place("s"), make_contents())
    one, other = (block_path(path, f"train/layer_0{layer}/mean", 0, 1) for layer in (0, 3))
    kept = one.read_bytes()
    shutil.copy(other, one)
    other.write_bytes(kept)
    renamed = block_path(path, "test/layer_00/patch", 0, 0)
    renamed.rename(renamed.with_name("old"))
    assert [(problem.file, problem.kind) for problem in verify(path)] == [
        (name_of(path, renamed), "missing"),
        (name_of(path, renamed.with_name("old")), "foreign"),
        (name_of(path, one), "damaged"),
        (name_of(path, other), "damaged"),
    ]


def test_a_block_of_another_store_is_named(place: Place) -> None:
    path, other = write(place("s"), make_contents()), place("other")
    strange = make_contents(counts={"train": 11, "test": 3})
    for values in strange.stored.values():
        values += 1
    write(other, strange)
    array = ("train/layer_00/patch", 1, 0)
    shutil.copy(block_path(other, *array), block_path(path, *array))
    assert verify(path) == [Problem(name_of(path, block_path(path, *array)), *DAMAGED)]


def test_blocks_that_are_not_written_yet_are_named(place: Place) -> None:
    contents, path = make_contents(), place("s")
    *most, last = blocks(contents.manifest)
    write_some(path, contents, most)
    arrays = [f"{last.split}/layer_{layer}/{kind}" for layer in ("00", "03") for kind in ("mean", "patch", "prefix")]
    files = [name_of(path, block_path(path, array, last.view, last.block)) for array in arrays]
    assert verify(path) == [Problem(name, *UNFINISHED) for name in files]


def test_a_file_that_the_journal_does_not_record_is_named(place: Place) -> None:
    path = write(place("s"), make_contents())
    name = name_of(path, block_path(path, "train/layer_00/patch", 0, 2))
    journal = folder_of(path) / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if f'"{name}"' not in line))
    assert verify(path) == [Problem(name, *UNFINISHED)]


@pytest.mark.parametrize("data", [None, b"", b"junk"], ids=["missing", "empty", "junk"])
def test_a_root_that_is_gone_is_named_and_the_rest_is_checked(place: Place, data: bytes | None) -> None:
    path = write(place("s"), make_contents())
    lost = block_path(path, "train/layer_00/patch", 0, 2)
    lost.unlink()
    root_of(path).unlink()
    if data is not None:
        root_of(path).write_bytes(data)
    root = Problem(root_of(path).name, *(DAMAGED if data else MISSING))
    assert sorted(verify(path), key=lambda problem: problem.file) == sorted(
        [Problem(name_of(path, lost), *MISSING), root], key=lambda problem: problem.file
    )


def test_a_root_of_just_before_a_crash_is_as_it_should_be(place: Place) -> None:
    """The journal records a root before it is written: a crash between the two leaves the previous root."""
    contents, path = make_contents(), place("s")
    write_some(path, contents, blocks(contents.manifest)[:-1])
    before = root_of(path).read_bytes()
    write(path, contents)
    root_of(path).write_bytes(before)
    unsealed = "not finished: it says that the store is not complete, but every file is there"
    assert verify(path) == [Problem(root_of(path).name, "unfinished", unsealed)]
    older = json.loads(json.dumps(contents.part({"test": {"layer_00": ["mean"]}}).manifest.to_json()))
    assert older != contents.manifest.to_json()
    root_of(path).write_bytes(store_files(path).root_bytes(contents.part({"test": {"layer_00": ["mean"]}}).manifest))
    assert verify(path) == [Problem(root_of(path).name, *DAMAGED)]


def test_what_is_no_store_is_refused(place: Place, suffix: str) -> None:
    path = place("none")
    with pytest.raises(MissingError, match="no store at"):
        verify(path)
    folder_of(path).mkdir()
    with pytest.raises(StoreError, match="is not a token store"):
        verify(path)


def test_what_cannot_be_read_is_named_and_the_rest_is_checked(place: Place) -> None:
    path = write(place("s"), make_contents())
    folder, loop, below = (block_path(path, "train/layer_00/patch", 0, block) for block in range(3))
    for file in (folder, loop, below):
        file.unlink()
    folder.mkdir()
    loop.symlink_to(loop.name)
    below.symlink_to(f"{loop.name}/below")
    found = {problem.file: problem.what for problem in verify(path)}
    assert found == {
        name_of(path, folder): "damaged: it cannot be read: Is a directory",
        name_of(path, loop): "damaged: it cannot be read: Too many levels of symbolic links",
        name_of(path, below): "damaged: it cannot be read: Too many levels of symbolic links",
    }


def test_a_name_that_acts_on_a_terminal_is_escaped(place: Place) -> None:
    path = write(place("s"), make_contents())
    (folder_of(path) / "\x1b[31mred\n\udcff").touch()
    assert [problem.line for problem in verify(path)] == [r"\x1b[31mred\n\udcff: foreign: nothing declares it"]


def test_a_root_whose_copy_in_the_journal_is_damaged_too_is_named(place: Place) -> None:
    path = write(place("s"), make_contents())
    journal = folder_of(path) / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    *_, last = (index for index, line in enumerate(lines) if b'"content"' in line)
    journal.write_bytes(
        b"".join(lines[:last]) + lines[last].replace(b'"depth": 4', b'"depth": 0') + b"".join(lines[last + 1 :])
    )
    content = root_of(path).read_bytes()
    root_of(path).write_bytes(b"junk")
    assert verify(path) == [Problem(root_of(path).name, *DAMAGED)], "the record before the last one tells as well"
    journal.write_bytes(journal.read_bytes().replace(b'"depth": 4', b'"depth": 0'))
    with pytest.raises(StoreError, match=f"^'{root_of(path)}' is damaged: .*, and so is the copy in its journal; make"):
        verify(path)
    root_of(path).write_bytes(content)
    assert verify(path) == []
