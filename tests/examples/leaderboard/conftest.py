"""The scripts of the leaderboard, a made-up list for them, and the published list."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from .kit import LIST, MADE, SCRIPT, Script


@pytest.fixture(scope="session")
def script() -> Iterator[Script]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPT.parent))
        import leaderboard_list
        import leaderboard_page

        spec = importlib.util.spec_from_file_location("leaderboard_script", SCRIPT)  # a clone may be named leaderboard
        assert spec and spec.loader
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        yield Script(main, leaderboard_list, leaderboard_page)


@pytest.fixture
def run(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the script with arguments, and return its exit status."""
    return partial(script, monkeypatch)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Write the made-up list, with other keys for its first row."""

    def write(**changes: Any) -> Path:
        first, *others = MADE["rows"]
        path = tmp_path / "made.yaml"
        path.write_text(json.dumps(MADE | {"rows": [first | changes, *others]}))
        return path

    return write


@pytest.fixture(scope="session")
def board(script: Script) -> Any:
    return script.reads.read_board(str(LIST))
