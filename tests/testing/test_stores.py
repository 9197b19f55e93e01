"""A package outside the tree inherits the suite for its store format: the one of docs/your-own.md, and wrong ones."""

from pathlib import Path

import pytest

from tokenprobe.testing.stores import StoreConformance

from .outside import run_suite

PAGE = Path(__file__).parents[2] / "docs" / "your-own.md"
WRONG = {
    "Colliding": (
        "def block_name(self, spec, view, block):\n        return super().block_name(spec, 0, block)",
        "test_the_library_shows_the_same_numbers_from_anywhere and [float16]",
    ),
    "Unnamed": (
        "def whole_names(self, array):\n        return [array.replace('labels', 'ids') + '.h5']",
        "test_labels_ids_classes_and_names",
    ),
    "Reversed": (
        "def read_rows(self, spec, view, part, out):\n        super().read_rows(spec, view, part, out[::-1].copy())",
        "test_what_is_stored_reads_back_as_it_is and [float16]",
    ),
    "Padded": (
        "def extent(self, spec, view, block):\n"
        "        return super().extent(spec, view, block)._replace(size=spec.block_bytes)",
        "test_extents_are_the_bytes_of_the_rows_without_the_padding and [float16]",
    ),
    "Timed": (
        "def root_bytes(self, manifest):\n"
        "        return super().root_bytes(replace(manifest, versions={'at': str(time.time_ns())}))",
        "test_asking_for_part_of_a_store_keeps_all_of_it",
    ),
    "Undeclared": (
        "def declared(self, manifest):\n        return {n for n in super().declared(manifest) if 'ids' not in n}",
        "test_every_declared_file_is_there_and_no_other",
    ),
    "Greedy": (
        "def exists(self):\n        return True",
        "test_a_folder_of_something_else_where_blocks_would_be_is_refused",
    ),
}
"""A wrong method of a format, and the test of the suite that must say so."""
A_WRONG_ONE = """

class {name}(PartsFiles):
    {method}


FORMATS[".{suffix}"] = {name}


class Test{name}(TestParts):
    suffix = ".{suffix}"
"""
RIGHT = (
    "([float16] and (same_numbers or as_it_is or extents_are or deleted_by_hand))",
    "labels_ids",
    "blocks_would_be",
)
"""Tests of the right format, by parts of their names: the quick ones."""


def test_the_suite_passes_a_right_format_and_says_what_is_wrong_with_others(tmp_path: Path) -> None:
    code = PAGE.read_text().split("## A store format")[1].split("```python\n")[1:3]
    files, suite = (part.split("```")[0] for part in code)
    (tmp_path / "mypkg_store.py").write_text(files)
    wrong = [A_WRONG_ONE.format(name=name, suffix=name.lower(), method=method) for name, (method, _) in WRONG.items()]
    more = "\nimport time\nfrom dataclasses import replace\n\nfrom mypkg_store import FORMATS, PartsFiles\n"
    (tmp_path / "test_mine.py").write_text(suite + more + "".join(wrong))
    chosen = " or ".join(
        [
            *(f"(TestParts and ({names}))" for names in RIGHT),
            *(f"(Test{name} and {test})" for name, (_, test) in WRONG.items()),
        ]
    )
    shown, failed = run_suite(tmp_path, chosen, "--assert=plain")
    assert not any("::TestParts::" in line for line in failed), shown
    for name, (_, test) in WRONG.items():
        assert any(f"::Test{name}::{test.split()[0]}" in line for line in failed), (name, shown)
    assert " 6 passed" in shown, shown


def test_a_suite_that_lacks_a_part_names_it(tmp_path: Path) -> None:
    class Bare(StoreConformance):
        pass

    for what, call in {
        "library": lambda: Bare().library(tmp_path),
        "attributes": lambda: Bare().attributes({}),
        "make_foreign": lambda: Bare().make_foreign(tmp_path),
    }.items():
        with pytest.raises(NotImplementedError, match=f"^Bare .*: write `{what}`$"):
            call()
