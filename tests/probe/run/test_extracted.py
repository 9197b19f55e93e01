"""The commands that made a store: the real command line reads them, and they leave nothing to extract."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from tokenprobe.cli import main
from tokenprobe.commands import program
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe.report.html.commands import describe_runs
from tokenprobe.probe.run.extracted import extract_arguments
from tokenprobe.store import Store, open_store
from tokenprobe.store.journal import NAME

from ..kit import fit_made, write_made


def read(arguments: list[str]) -> ExtractConfig:
    call = program.parse(["extract", *arguments])
    assert not isinstance(call, int)
    return call.arguments()["config"]


def test_a_page_has_the_commands_that_made_its_store(tiny_config: Callable[..., ExtractConfig]) -> None:
    first = tiny_config(layers="0", seed=3, dtype="float32")
    out = extract(first)
    extract(tiny_config(layers="-1", seed=3, dtype="float32"))
    before = {file: file.read_bytes() for file in Path(out).rglob("c/*/*") if file.is_file()}
    commands = [["extract", *each, "-o", str(out)] for each in extract_arguments(open_store(out))]
    assert [each[each.index("--layers") + 1] for each in commands] == ["0", "-1"]
    assert "--block-mib" not in commands[0] and "--workers" not in commands[0]  # a default, and not of the bytes
    assert read(commands[0][1:]).to_json() == {**first.to_json(), "workers": None}
    for command in commands:
        assert main(command) == 0
    assert before == {file: file.read_bytes() for file in Path(out).rglob("c/*/*") if file.is_file()}
    run = fit_made(open_store(out), Path(out).parent / "run", heads=["knn"], layers="0")
    (known,) = describe_runs([run])
    told = [shlex.split(line)[:2] + shlex.split(line)[-2:] for line in known["commands"][:2]]
    assert told == [["probe", "extract", "-o", str(out)]] * 2 and known["commands"][2].startswith("probe fit ")


def test_an_older_journal_has_all_settings(tiny_config: Callable[..., ExtractConfig]) -> None:
    config = tiny_config(layers="0", skip_bad_images=True)
    out = Path(extract(config))
    journal = out / NAME
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "given"}) + "\n" for line in lines))
    (arguments,) = extract_arguments(open_store(out))
    assert arguments[arguments.index("--block-mib") + 1] == "128"
    assert arguments[arguments.index("--skip-bad-images") + 1].startswith("--")
    assert read([*arguments, "-o", str(out)]).to_json() == {**config.to_json(), "workers": None}


def test_a_store_without_a_journal_has_none(write_store: Callable[..., Store], tmp_path: Path) -> None:
    assert extract_arguments(write_made(write_store, tmp_path / "s.zarr")) == []
