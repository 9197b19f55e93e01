"""Command lines that nobody means: a status and one line, never a traceback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprobe.cli import main

COMMANDS = ["extract", "fit", "info", "verify", "export", "predict", "models", "datasets", "heads"]
FLAGS = [
    "-m", "-d", "-o", "--layers", "--tokens", "--dtype", "--views", "--limit", "--seed", "--batch-size",
    "--workers", "--amp", "--heads", "--lr", "--shots", "--fraction", "--epochs", "--protocol", "--config",
    "--cell", "--images", "--to", "--split", "--repair", "--json", "--dry-run", "--page", "-q", "-v",
    "--image-size", "--model-arg", "--val", "--test-store", "--",
]  # fmt: skip
VALUES = [
    "", " ", "-1", "0", "1e400", "nan", "-inf", "9" * 40, "a=b", "=", "ep:queries=", "ep:queries=8|", "0,5,-1",
    "last999", "8+", "8+9+10", "..", "/", "/dev/null", "nope.zarr", "nope.h5", "s3://", "timm:", "hub:",
    "hub:./nope/x", "timm:nope", "npz:", "csv:nope.csv?root=", "wds:{9..0}.tar", "folder:\udcff", "\x1b[31m",
    "\n", "é", "🙂", "select", "paper", "true", "[1]", "{}",
]  # fmt: skip
words = st.one_of(st.sampled_from(FLAGS), st.sampled_from(VALUES), st.text(max_size=6).filter(lambda t: "\0" not in t))


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


@given(command=st.sampled_from(COMMANDS), arguments=st.lists(words, max_size=7))
def test_a_malformed_command_line_ends_in_one_line(
    command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([command, *arguments])
    error = capsys.readouterr().err
    assert status in (0, 2)
    assert "Traceback" not in error
    if status == 2:
        last = error.rstrip("\n").splitlines()[-1]
        assert last.startswith("probe "), error
    assert not [each for each in Path().iterdir() if each.suffix in (".zarr", ".h5")]
