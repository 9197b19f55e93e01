"""Tests that every format refuses a path that is in use, and overwrites a store. Part of `stores.py`."""

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..errors import StoreError
from ..store import open_store, open_writer
from ..store.formats import store_files
from ..store.verify import verify
from .forks import fork_and_kill
from .store_kit import (
    ALL,
    folder_in_memory,
    folder_of,
    journal_lines,
    make_contents,
    root_of,
    says_complete,
    tree,
    write,
)


class RefusingConformance:
    """Tests of a format: refusing. `StoreConformance` explains what a subclass gives."""

    suffix: str

    def library(self, path: Path) -> AbstractContextManager[Mapping[str, Any]]:
        """Open a store with only the library of its format.

        Returns:
            A context that gives the store's arrays by name, such as "train/layer_00/patch". `array[...]` is all its
            values, with the fill value for a missing block, and `array.attrs` its attributes.
        """
        raise NotImplementedError(f"{type(self).__name__} opens no store with another library: write `library`")

    def attributes(self, opened: Any) -> dict[str, Any]:
        """Return the manifest as the library shows it.

        Args:
            opened: from `library`.
        """
        raise NotImplementedError(f"{type(self).__name__} shows no manifest: write `attributes`")

    def make_foreign(self, path: Path) -> None:
        """Make something that the library can open but that is not a store."""
        raise NotImplementedError(f"{type(self).__name__} makes nothing foreign: write `make_foreign`")

    @pytest.fixture
    def place(self) -> Iterator[Callable[[str], Path]]:
        """Give a path for a store. All have one file name: a store may contain the name of its files."""
        with folder_in_memory() as folder:

            def make(name: str) -> Path:
                (folder / name).mkdir()
                return folder / name / f"store{self.suffix}"

            yield make

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"precision": "bfloat16"}, "precision: stored 'float32', asked 'bfloat16'"),
            ({"dtype": "float32"}, "dtype: stored 'float16', asked 'float32'"),
            ({"weights": "1" * 64}, f"weights: stored '{'0' * 64}', asked '{'1' * 64}'"),
        ],
        ids=["precision", "dtype", "weights"],
    )
    def test_a_store_made_differently_is_refused_and_left_alone(
        self, place: Callable[[str], Path], change: dict[str, Any], named: str
    ) -> None:
        contents, path = make_contents(), place("s")
        write(path, contents)
        before = tree(path), journal_lines(path)
        recipe = replace(contents.manifest.recipe, **change)
        other = replace(contents, manifest=replace(contents.manifest, recipe=recipe))
        with pytest.raises(StoreError, match=re.escape(f"made differently ({named}); write to another store")):
            write(path, other)
        assert (tree(path), journal_lines(path)) == before

    def test_views_drawn_differently_are_refused(self, place: Callable[[str], Path]) -> None:
        contents, path = make_contents(), place("s")
        write(path, contents)
        other = contents.part({"train": {"layer_00": ALL}}, augmentation={"seed": 1})
        with pytest.raises(StoreError, match=r"train\.augmentation\.seed: stored 0, asked 1"):
            write(path, other)

    def test_overwriting_leaves_nothing_of_what_was_there(self, place: Callable[[str], Path]) -> None:
        path, other = (
            place("s"),
            make_contents("int8").part({"test": {"layer_00": [*ALL, "patch_scale", "prefix_scale"]}}),
        )
        write(path, make_contents())
        write(path, other, overwrite=True)
        assert tree(path) == tree(write(place("fresh"), other))
        assert verify(path) == []

    @pytest.mark.parametrize("copied", [False, True])  # folders list entries in the order they were made, or not
    def test_overwriting_that_was_killed_calls_nothing_complete_and_can_be_repeated(
        self, place: Callable[[str], Path], copied: bool
    ) -> None:
        contents = make_contents()
        whole = write(place("whole"), contents)
        for step in range(3, 80, 11):
            path = place(str(step))
            if copied:
                shutil.copytree(whole.parent, path.parent, dirs_exist_ok=True)
            else:
                write(path, contents)
            assert fork_and_kill(partial(write, path, contents, overwrite=True), step)
            intact = tree(whole).items() <= tree(path).items()
            assert intact or not says_complete(path), f"killed at step {step}"
            write(path, contents, overwrite=True)
            assert tree(path) == tree(whole), f"killed at step {step}"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_what_is_no_store_is_refused_and_left_alone(self, place: Callable[[str], Path], overwrite: bool) -> None:
        for name, make in {"file": make_file, "photos": make_photos, "foreign": self.make_foreign}.items():
            path = place(name)
            make(path)
            before = tree(path)
            with (
                pytest.raises(
                    StoreError, match=f"^{str(path)!r} (exists and is not a token store|is damaged, or not a store)"
                ),
                open_writer(path, make_contents().manifest, overwrite=overwrite) as writer,
            ):
                writer.seal()
            assert tree(path) == before, name
            with pytest.raises(
                StoreError, match=r"is not a token store: it has no manifest|is damaged, or not a store"
            ):
                open_store(path)

    def test_a_folder_of_something_else_where_blocks_would_be_is_refused(self, place: Callable[[str], Path]) -> None:
        path = place("s")
        make_photos(folder_of(path))
        before = tree(path)
        with pytest.raises(StoreError, match=f"^{str(path)!r} exists and is not a token store; give another path$"):
            write(path, make_contents())
        assert tree(path) == before

    @pytest.mark.parametrize("left", [[], [".lock"], [".lock", "journal.jsonl"]])
    def test_an_empty_folder_and_what_a_first_run_killed_early_leaves_are_fine(
        self, place: Callable[[str], Path], left: list[str]
    ) -> None:
        path = place("s")
        folder_of(path).mkdir()
        for name in left:
            (folder_of(path) / name).write_bytes(b"")
        assert tree(write(path, make_contents())) == tree(write(place("fresh"), make_contents()))

    def test_a_root_that_is_gone_or_damaged_is_named(self, place: Callable[[str], Path]) -> None:
        path = write(place("s"), make_contents())
        root = root_of(path)
        data = root.read_bytes()
        for damaged in (b"", b"\x00" + data[1:], data[: len(data) // 2]):
            root.write_bytes(damaged)
            message = f"^{str(root)!r} is damaged, or not a store .*; mend it with probe verify --repair, or give an"
            with pytest.raises(StoreError, match=message):
                open_store(path)
            with pytest.raises(StoreError, match=message):
                write(path, make_contents())
        root.unlink()
        with pytest.raises(StoreError, match=f"^{str(path)!r} is not a token store: it has no manifest; make one with"):
            open_store(path)

    def test_another_format_version_is_refused(self, place: Callable[[str], Path]) -> None:
        contents, path = make_contents(), place("s")
        write(path, contents)
        root_of(path).write_bytes(store_files(path).root_bytes(replace(contents.manifest, format=2)))
        (folder_of(path) / "journal.jsonl").unlink()
        for call in (lambda: open_store(path), lambda: write(path, contents)):
            with pytest.raises(StoreError, match=r"^store format 2 is unknown: this version reads format 1$"):
                call()


def make_file(path: Path) -> None:
    """Make a file that is no store."""
    path.write_text("mine")


def make_photos(path: Path) -> None:
    """Make a folder that is no store, with a split's name in it."""
    (path / "train").mkdir(parents=True)
    (path / "train" / "cat.png").write_text("mine")
