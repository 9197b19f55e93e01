"""The leaderboard's scripts and files, and a made-up list of two tiny models."""

import csv
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tokenprobe import show_progress

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples/leaderboard.py"
LIST, PAGE = ROOT / "examples/imagenet.yaml", ROOT / "docs/reproduce-imagenet.md"
TINY: dict[str, Any] = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "depth": 2, "num_heads": 2}
MADE: dict[str, Any] = {
    "sources": {"paper": "made up", "report": "made up too"},
    "extract": {"data": "demo", "limit": 64, "layers": "-1", "workers": 0, "device": "cpu", "batch_size": 32},
    "fit": {"preset": "ep", "epochs": 2, "warmup_epochs": 0, "batch_size": 32, "device": "cpu"},
    "rows": [
        {
            "name": "first",
            "title": "First",
            "extract": {"model": "timm:VisionTransformer", "model_arg": TINY, "no_pretrained": True},
            "figures": [
                {"probe": "LP", "head": "linear:pool=cls", "paper": 20, "report": 20.5},
                {"probe": "EP", "head": "ep:queries=2", "paper": 30},
            ],
        },
        {
            "name": "second",
            "title": "Second",
            "extract": {"model": "timm:VisionTransformer", "model_arg": TINY, "no_pretrained": True, "seed": 1},
            "fit": {"seeds": 2},
            "figures": [
                {"probe": "EP", "head": "ep:queries=2", "paper": 90},
                {"probe": "kNN", "reason": "it has no head.", "paper": 10},
            ],
        },
        {
            "name": "third",
            "title": "Third",
            "reason": "it has no weights.",
            "figures": [{"probe": "LP", "head": "linear", "paper": 50}],
        },
    ],
}  # fmt: skip


class Script:
    """The script and its modules. It counts the stages that run."""

    def __init__(self, main: ModuleType, reads: ModuleType, page: ModuleType) -> None:
        self.main, self.reads, self.page = main, reads, page

    def __call__(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            return self.main.main()
        finally:
            show_progress(False)


def read_lines(out: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (out / "leaderboard.csv").open() as file:
        return {(line["name"], line["probe"], line["source"]): line for line in csv.DictReader(file)}
