"""Every example in README, docs, examples and help runs, or is marked as needing a download.

The files that they name are stand-ins here: 25 classes of noise for ImageNet, and for each published backbone a small
one of as many layers, with drawn weights. Fits stop after one epoch, and the demo reads 40 images of each split.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import Tensor

import tokenprobe
from tokenprobe.cli import main
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.heads import build_pooling
from tokenprobe.runtime.config_file import read_config_file
from tokenprobe.workflows import demo

from .shown import ROOT, Shown, first_shown, lines_of_help, lines_of_pages, python_blocks
from .test_command_lines import parse

N_CLASSES, N_TRAIN, N_TEST = 25, 20, 2
SMALL_VIT: dict[str, Any] = {"img_size": 224, "patch_size": 56, "embed_dim": 64, "depth": 12, "num_heads": 2}
SWEEP = {"out": "runs/sweep", "heads": ["linear"], "layers": [3, 7], "lr": "0.1,1"}

LINES = first_shown(*lines_of_pages(), *lines_of_help())
MAKERS = {
    made: line
    for line, example in reversed(LINES.items())
    if line.startswith("probe ") and not example.marked
    for made in re.findall(r" -o (\S+)", line)
}
"""The first line that makes each file or folder."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(0)
    for split, n_images in (("train", N_TRAIN), ("val", N_TEST)):
        for label, index in np.ndindex(N_CLASSES, n_images):
            path = folder / "imagenet" / split / f"n{label:08d}" / f"{index}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (folder / "new-photos").symlink_to(folder / "imagenet" / "val")
    Image.new("RGB", (20, 30), "red").save(folder / "cat.jpg")
    make_stores(folder)
    images = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20) % 10
    np.savez(folder / "cifar.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    own = VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=8, num_heads=3, num_classes=0)
    save_file(own.state_dict(), folder / "mine.safetensors")
    torch.save(reference_head(), folder / "aim.pth")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "your-own.md").read_text(), re.M | re.S)
    for module, content in (("mypkg_heads", "class PowerMean("), ("mypkg_store", "class PartsFiles(")):
        (folder / f"{module}.py").write_text(next(block for block in blocks if content in block))
    return folder


def make_stores(folder: Path) -> None:
    common: dict[str, Any] = {"data": f"folder:{folder / 'imagenet'}", "no_pretrained": True, "workers": 0}
    for seed, name in enumerate(("mae", "dino")):
        model: dict[str, Any] = {"model": "timm:VisionTransformer", "model_arg": SMALL_VIT, "seed": seed}
        extract(ExtractConfig(out=folder / f"{name}.zarr", **common, **model))


@pytest.fixture
def shortened(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Enter the folder of stand-ins, and make work short that the examples ask for."""

    def fit_less(store: Any, config: FitConfig) -> Any:
        warmup = None if config.warmup_epochs is None else 0.0
        return fit(store, replace(config, epochs=1, warmup_epochs=warmup, min_steps=0))

    monkeypatch.setattr(tokenprobe.probe, "fit", fit_less)
    monkeypatch.setattr(demo, "fit", fit_less)
    monkeypatch.setattr(demo, "extract", lambda config: extract(replace(config, limit=40, workers=0)))
    monkeypatch.chdir(stand_ins)
    monkeypatch.syspath_prepend(stand_ins)
    yield stand_ins
    tokenprobe.show_progress(False)


def run_probe(line: str) -> None:
    words = {"STORE": "mae.zarr", "RUN": f"runs/{abs(hash(line))}"}
    if "CELL" in line:
        results = pd.read_parquet("runs/mae/results.parquet")
        words["CELL"] = results[results["selected"]]["cell"].iloc[0]
    argv = [words.get(word, word) for word in shlex.split(line, comments=True)[1:]]
    assert main(argv) == 0, line


def find_test(line: str) -> None:
    """Expect the test in `tests/examples/` that runs a script, on a small store."""
    script = Path(shlex.split(line)[1])
    folder = ROOT / "tests" / script.parent
    tests = [folder / f"test_{script.name}", *(folder / script.stem).glob("*.py")]
    assert any(f'"{script}"' in path.read_text() for path in tests if path.exists())


def find_recipe(line: str) -> None:
    """Expect that make runs `probe demo`, whose example in the help runs, the study, or the benchmarks."""
    recipe = {
        "make demo": "$(BIN)/probe demo",
        "make study": r"printf '%s\n' $(STUDY) |",
        "make bench": "$(BIN)/python benchmarks/run_all.py",
    }[line]
    assert f"\n{line.removeprefix('make ')}: $(STAMP)\n\t{recipe}" in (ROOT / "Makefile").read_text()


RUN: dict[str, Callable[[str], None]] = {"probe": run_probe, "python": find_test, "make": find_recipe}


def run_line(line: str) -> None:
    """Run an example. What it reads of other examples, such as a run, they make first."""
    words = shlex.split(line, comments=True)
    made = words[words.index("-o") + 1] if "-o" in words else None
    for word in words:
        if word in MAKERS and word != made and not Path(word).exists():
            run_line(MAKERS[word])
    print(line)
    RUN[words[0]](line)


def reference_weights() -> dict[str, Tensor]:
    pool = build_pooling("aim", dim=768, grid=(14, 14), heads=12)
    return {theirs: pool.get_parameter(ours)[0].detach() for theirs, ours in pool.reference_names.items()}


def reference_head() -> dict[str, Tensor]:
    """Return a head as the reference implementation saves it, on tokens 192 wide."""
    pool = build_pooling("aim", dim=192, grid=(8, 8), heads=12)
    state = {f"0.{theirs}": pool.get_parameter(ours)[0].detach() for theirs, ours in pool.reference_names.items()}
    state |= {"1.running_mean": torch.zeros(192), "1.running_var": torch.ones(192)}
    return state | {"2.weight": torch.zeros(10, 192), "2.bias": torch.zeros(10)}


@pytest.mark.parametrize("place", {each.place: None for each in LINES.values()})
def test_every_command_line_that_is_shown_runs_or_is_marked(shortened: Path, place: str) -> None:
    for line, example in LINES.items():
        if example.place == place and not example.marked:
            run_line(line)


def test_only_what_cannot_run_here_is_marked() -> None:
    """What needs published weights, an installation, a store in a bucket, a head on the hub, or code of a user.

    Rows of reproduce-imagenet.md are marked whole. `examples/leaderboard/test_run.py` runs such a list.
    """
    for place, line, marked in (*lines_of_pages(), *lines_of_help()):
        if marked and line.startswith("probe "):
            call = parse(line)
            own = call.given.get("checkpoint") or call.given.get("no_pretrained") or call.given.get("dry_run")
            downloads = call.command.name in ("extract", "heads import") and not own
            assert (
                downloads or place == "reproduce-imagenet.md" or re.search("s3://bucket|ORG/NAME|mypkg|runs/own", line)
            ), f"{place}: {line}"
        elif marked:
            assert line.startswith(("make install", "pip install .", "pip install '.[")), f"{place}: {line}"


@pytest.mark.parametrize(("page", "block"), [*python_blocks()], ids=lambda part: part if isinstance(part, str) else "")
def test_python_that_is_shown_runs_or_is_marked(page: str, block: list[Shown], shortened: Path) -> None:
    run = fit("mae.zarr", FitConfig(out="runs/mae", heads="ep:queries=32", layers=3, epochs=1, lr=1.0))
    given: dict[str, Any] = {
        "cell": run.results["cell"].iloc[0],
        "image": Image.new("L", (30, 20)),
        "x": torch.zeros(2, 196, 768),
        "state": reference_weights(),
    }
    for example in block:
        if not example.marked:
            exec(example.text, given)


def test_the_options_page_says_one_thing_three_times(tmp_path: Path) -> None:
    """As flags, as a file and in Python."""
    line, file, code = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "docs" / "options.md").read_text(), re.M | re.S)
    given: dict[str, Any] = {}
    exec(code, given)
    (tmp_path / "sweep.yaml").write_text(file)
    assert parse(line.strip()).arguments()["config"] == given["config"]
    assert FitConfig(**read_config_file(FitConfig, str(tmp_path / "sweep.yaml"))) == given["config"]
