"""The command as a user runs it: exit statuses, one-line errors, help, signals."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from tokenprobe.cli import main
from tokenprobe.store import open_store
from tokenprobe.store.array_spec import array_specs
from tokenprobe.store.formats import store_files
from tokenprobe.testing.store_kit import folder_of

VIT_FLAGS = [
    "-m", "timm:VisionTransformer", "--no-pretrained", "--workers", "0", "--batch-size", "4",
    "--model-arg", "img_size=16,patch_size=4", "--model-arg", "embed_dim=12,depth=3,num_heads=2",
]  # fmt: skip


@pytest.fixture
def extract_flags(image_folder: Path, tmp_path: Path) -> list[str]:
    return ["extract", *VIT_FLAGS, "-d", str(image_folder), "-o", str(tmp_path / "a.zarr")]


def one_line_of(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_extract_then_fit_leaves_a_run_and_prints_its_table(
    extract_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(extract_flags) == 0
    flags = ["fit", str(tmp_path / "a.zarr"), "-o", str(tmp_path / "run"), "--epochs", "2", "--lr", "1,3"]
    assert main([*flags, "--head", "ep:queries=2|4,linear:pool=cls", "--layers", "0,-1"]) == 0
    shown = capsys.readouterr().out
    for word in ("ep:queries=2", "ep:queries=4", "linear:pool=cls", "test top-1", "results.csv"):
        assert word in shown
    lines = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 2  # layers × heads × rates
    assert (tmp_path / "run" / "figures" / "layer_curve.png").stat().st_size > 1000


def test_a_flag_wins_over_the_config_file(extract_flags: list[str], tmp_path: Path) -> None:
    main(extract_flags)
    config = tmp_path / "sweep.yaml"
    config.write_text("head: linear:pool=cls\nepochs: 9\nlr: [1, 3]\n")
    flags = ["fit", str(tmp_path / "a.zarr"), "--config", str(config), "-o", str(tmp_path / "run"), "--epochs", "1"]
    assert main(flags) == 0
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (resolved["heads"], resolved["epochs"], resolved["lr"]) == (["linear:pool=cls"], 1, [1.0, 3.0])
    again = ["fit", str(tmp_path / "a.zarr"), "--config", str(tmp_path / "run" / "config.yaml")]
    assert main([*again, "-o", str(tmp_path / "again")]) == 0
    assert _without_run(tmp_path / "again") == _without_run(tmp_path / "run")


def _without_run(run: Path) -> list[dict[str, str]]:
    """Return the results without the columns of times."""
    with (run / "results.csv").open() as file:
        return [{key: text for key, text in row.items() if "seconds" not in key} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-m", "timm:vit_bse_patch16_224"], ["unknown timm model 'vit_bse_patch16_224'", "vit_base_patch16_224"]),
        (["-d", "folder:/no/such"], ["no folder at '/no/such'"]),
        (["-d", "wrong:thing"], ["unknown data source 'wrong'", "known: folder, "]),
        (["--layers", "7"], ["layer of the backbone '7'", "known: 0, 1, 2"]),
        (["--split", "tset"], ["unknown split", "'tset'", "test, train"]),
        (["--dtype", "float8"], ["unknown --dtype 'float8'", "float16"]),
        (["--model-arg", "img_sice=16"], ["img_sice"]),
        (["--model-arg", "img_size"], ["--model-arg 'img_size': expected KEY=VALUE"]),
        (["--dtyp", "float16"], ["no such option: --dtyp; did you mean --dtype", "See probe extract --help"]),
        (["--checkpoint", "/no/such.pth"], ["no checkpoint at '/no/such.pth'"]),
        (["--batch-size", "x"], ["--batch-size 'x': expected a whole number"]),
    ],
)
def test_a_wrong_input_to_extract_exits_2_with_one_line(
    flags: list[str], words: list[str], extract_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*extract_flags, *flags]) == 2
    line = one_line_of(capsys)
    assert line.startswith("probe extract: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--head", "epp"], ["unknown head 'epp'", "known: ep, "]),
        (["--layers", "9"], ["'9'", "0, 1, 2"]),
        (["--config", "/no/such.yaml"], ["no config file at '/no/such.yaml'"]),
        (["--test-split", "dev"], ["unknown split 'dev'", "test, train"]),
        (["--protocol", "best"], ["unknown --protocol 'best'", "select, paper"]),
    ],
)
def test_a_wrong_input_to_fit_exits_2_with_one_line(
    flags: list[str], words: list[str], extract_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(extract_flags)
    capsys.readouterr()
    assert main(["fit", str(tmp_path / "a.zarr"), "-o", str(tmp_path / "run"), *flags]) == 2
    line = one_line_of(capsys)
    for word in words:
        assert word in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["- a list", "epochz: 3", "a: [1", "lr: fast", "epochs: many"])
def test_a_wrong_config_file_exits_2_with_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(content)
    assert main(["fit", "a.zarr", "--config", str(tmp_path / "sweep.yaml"), "-o", str(tmp_path / "run")]) == 2
    assert "config file" in one_line_of(capsys)


def test_extract_takes_a_config_file_too(image_folder: Path, tmp_path: Path) -> None:
    model = (
        "model: timm:VisionTransformer\nmodel_arg: {img_size: 16, patch_size: 4, embed_dim: 12, depth: 3, num_heads: 2}"
    )
    data = f"data: {image_folder}\nout: {tmp_path / 'a.zarr'}\nsplit: test\nlayers: [0, -1]\ntokens: patch\namp: off"
    (tmp_path / "made.yaml").write_text(f"{model}\nno_pretrained: true\n{data}\nworkers: 0\n")
    assert main(["extract", "--config", str(tmp_path / "made.yaml"), "--layers", "1"]) == 0
    store = open_store(tmp_path / "a.zarr")
    assert (store.layers, store.splits) == ([1], ["test"])


def test_fit_says_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(tmp_path / "none.zarr"), "-o", str(tmp_path / "run")]) == 2
    assert "no store at" in one_line_of(capsys)
    assert main(["fit", str(tmp_path), "-o", str(tmp_path / "run")]) == 2
    assert "not a token store" in one_line_of(capsys)


def demo_extract(store: Path) -> list[str]:
    return [
        sys.executable, "-m", "tokenprobe", "extract", "-m", "timm:VisionTransformer", "--no-pretrained", "-d", "demo",
        "-o", str(store), "--workers", "1", "--limit", "600", "--split", "train", "--batch-size", "16",
        "--model-arg", "img_size=28,patch_size=4,embed_dim=64,depth=4,num_heads=2",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_an_extraction_in_order_and_the_command_finishes_it_later(
    number: signal.Signals, tmp_path: Path
) -> None:
    store = tmp_path / "demo.zarr"
    command = demo_extract(store)
    heed = partial(signal.signal, number, signal.SIG_DFL)  # a shell has its background jobs ignore SIGINT
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    wait_for(lambda: "/c.0." in read(store / "journal.jsonl"))
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
    if number != signal.SIGINT:
        check_that_the_block_was_finished(store)
    assert error.splitlines()[-1].endswith("finished work is safe")
    assert "Traceback" not in error
    assert not open_store(store).manifest.complete
    subprocess.run(command, check=True, capture_output=True)
    assert open_store(store).manifest.complete
    events = [json.loads(line).get("event") for line in read(store / "journal.jsonl").splitlines()]
    assert (events.count("start"), events.count("finish")) == (2, 1)


def check_that_the_block_was_finished(store: Path) -> None:
    """Check that no file is half written, and that all layers have the same blocks."""
    assert not list(store.rglob("*.tmp"))
    blocks = [
        sorted(file.name for file in (store / "train" / f"layer_{layer:02d}" / "mean").glob("c.*"))
        for layer in range(4)
    ]
    assert blocks[0] and blocks == [blocks[0]] * 4


def test_a_signal_to_the_whole_group_ends_without_a_trace(tmp_path: Path) -> None:
    store = tmp_path / "demo.zarr"
    process = subprocess.Popen(demo_extract(store), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: "/c.0." in read(store / "journal.jsonl"))
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert error.splitlines()[-1].endswith("finished work is safe")
    assert "Traceback" not in error


def test_datasets_lists_how_each_spec_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    shown = capsys.readouterr().out
    assert "\nhf:ORG/NAME[?config=NAME&image=COLUMN&label=COLUMN]\n" in shown
    assert "CUB200" in shown


def test_layers_may_begin_with_a_negative_index(extract_flags: list[str], tmp_path: Path) -> None:
    assert main([*extract_flags, "--layers", "-1,0"]) == 0
    assert open_store(tmp_path / "a.zarr").layers == [0, 2]


def test_info_and_verify_tell_of_a_store(
    extract_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(extract_flags)
    assert main(["info", str(tmp_path / "a.zarr")]) == 0
    assert "60 images, 3 classes" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "a.zarr"), "--audit"]) == 0
    audit = [line.split("│")[1:5] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in (row[0], row[2])] for row in audit] == [
        [layer, dtype] for number in "012" for layer, dtype in ((number, "bfloat16"), ("", "int8"))
    ]
    assert main(["verify", str(tmp_path / "a.zarr")]) == 0
    assert "every file is intact" in capsys.readouterr().out
    (tmp_path / "a.zarr/train/layer_01/mean/c.0.3.0").unlink()
    assert main(["verify", str(tmp_path / "a.zarr")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "train/layer_01/mean/c.0.3.0: missing\n"
    assert shown.err.splitlines()[-1].endswith(
        f"'{tmp_path}/a.zarr': 1 file has a problem; mend it with probe verify --repair {tmp_path}/a.zarr"
    )


@pytest.mark.parametrize("format", ["zarr", "h5"])
def test_verify_repairs_if_asked(
    extract_flags: list[str], tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"b.{format}"
    main([*extract_flags, "-o", str(out)])
    files = store_files(out)
    (lost, *_) = files.block_names(next(array_specs(files.read_manifest())))
    (files.folder / lost).unlink()
    capsys.readouterr()
    assert main(["verify", str(out), "--repair"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}: every file is intact\n"
    assert f"{lost}: missing" in shown.err.splitlines()
    (folder_of(out) / "notes.txt").write_text("mine")
    assert main(["verify", str(out), "--repair"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "notes.txt: foreign: nothing declares it\n"
    assert shown.err.splitlines()[-1] == (
        f"probe verify: '{out}': 1 file has a problem; "
        "remove foreign files by hand: --repair removes only the temporary files of a killed writer"
    )


def test_models_are_listed_with_their_names_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vit_tiny_patch16_224.augreg*"]) == 0
    shown = capsys.readouterr().out
    for name in ("vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"):
        (line,) = [line for line in shown.splitlines() if f" {name} " in line]
        assert re.findall(r"[\d,]+(?= │)", line)[:4] == ["12", "192", "196", "1"]
    assert main(["models", "no_such_model*"]) == 2
    assert "no_such_model*" in one_line_of(capsys)


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tokenprobe", "datasets"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_export_writes_what_is_chosen_and_says_what_is_wrong(
    extract_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(extract_flags)
    flags = ["export", str(tmp_path / "a.zarr"), "-o", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*flags, "--to", "safetensors", "--layers", "-1,0", "--split", "test", "--tokens", "patch,mean"]) == 0
    assert one_line_of(capsys).startswith(f"{tmp_path / 'out'}: ")
    arrays = json.loads((tmp_path / "out" / "manifest.json").read_text())["arrays"]
    assert sorted(arrays) == [f"test/layer_0{layer}/{kind}" for layer in (0, 2) for kind in ("mean", "patch")]
    assert main([*flags, "--to", "npy"]) == 2
    assert "exists, and an export" in one_line_of(capsys)
    assert main([*flags[:3], str(tmp_path / "b")]) == 2
    assert one_line_of(capsys).startswith("probe export: the name ")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def read(path: Path) -> str:
    return path.read_text() if os.path.exists(path) else ""
