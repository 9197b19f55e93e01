"""Import of users' own code by name."""

import sys
from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.runtime.imports import import_by_name, is_import_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a:b", True), ("pkg.mod:Name", True), ("a", False), ("a:b:c", False), ("1a:b", False), ("a-b:c", False)],
)
def test_a_name_has_one_colon_and_two_names(name: str, expected: bool) -> None:
    assert is_import_name(name) == expected


def test_the_working_folder_counts_last_and_only_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_module_of_a_test.py").write_text("value = [1]\n")
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    before = list(sys.path)
    monkeypatch.delitem(sys.modules, "json")
    try:
        assert import_by_name("own_module_of_a_test:value", "head") == [1]
        assert import_by_name("json:dumps", "head")([1]) == "[1]"
    finally:
        sys.modules.pop("own_module_of_a_test", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such", "AttributeError: module 'json' has no attribute 'no_such'"),
    ],
)
def test_a_failed_import_is_named(name: str, said: str) -> None:
    module, _, part = name.partition(":")
    with pytest.raises(InputError, match=f"^model '{name}': importing '{part}' from '{module}' fails: {said}$"):
        import_by_name(name, "model")
