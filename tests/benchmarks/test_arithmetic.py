"""The page of arithmetic shows what its script prints, and the script agrees with naive sums."""

import importlib.util
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "arithmetic.md").read_text()
FOUND: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "arithmetic.py"))


def test_the_page_shows_the_tables_that_the_script_prints() -> None:
    assert [table for table in ("\n".join(lines) for lines in FOUND["tables"]()) if table not in PAGE] == []


def test_the_page_names_the_inputs() -> None:
    disk = f"{FOUND['DISK'] / 1e9:.2f} GB/s"
    for shown in (f"{FOUND['FORWARD']:,} images/s", "2,442 images/s on 16 cores", disk, "15.71 ms", "61.11 ms"):
        assert shown in PAGE
    results = (ROOT / "benchmarks/results/2026-11-27-one-h200-fused.md").read_text()
    for measured in ("8,812", "2,442", "15.71 ms a step", "61.11 ms a step"):
        assert measured in results
    assert "342 / 332 images/s, 7.5 GB" in (ROOT / "benchmarks/results/2026-11-27-one-h200.md").read_text()


@pytest.mark.parametrize(
    ("n_gpus", "n_layers", "part", "rate"),
    [
        (1, 1, "decoding", 12 * 2442 / 16),
        (8, 12, "network", 25e9 / (110e3 + 12 * (197 * 768 * 2 + 768 * 4))),
        (9, 12, "network", 2 * 25e9 / (110e3 + 12 * (197 * 768 * 2 + 768 * 4))),
        (1000, 1, "file system", 100e9 / (110e3 + 197 * 768 * 2 + 768 * 4)),
    ],
)
def test_the_least_part_stops_extraction(n_gpus: int, n_layers: int, part: str, rate: float) -> None:
    stopped, found = FOUND["least"](FOUND["extraction"](n_gpus, n_layers * (197 * 768 * 2 + 768 * 4)))
    assert (stopped, found) == (part, pytest.approx(rate))


def test_the_least_part_stops_training_and_one_disk() -> None:
    assert FOUND["least"](FOUND["training"](1, 64)) == ("GPU", pytest.approx(1024 / 0.01571))
    assert FOUND["least"](FOUND["training"](1000, 256)) == ("file system", pytest.approx(100e9 / 305_664))
    assert FOUND["least"](FOUND["on_one_disk"](1, 12 * 305_664))[0] == "disk"


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    FOUND["draw"](tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


SIZES = {"GB": 1e9, "TB": 1e12}


def test_the_sizes_on_the_page_are_tokens_times_images() -> None:
    """Patch and prefix tokens of two bytes per number, one byte and a scale with int8, and a mean of four."""
    shown = re.findall(
        r"^\| \S+(?: at \d+)? \| (\d+) \| (\d+) patch \(.*\) \+ (\d) prefix, (\d+) wide \| (.*) \| (.*) \| (.*) \|$",
        PAGE,
        re.MULTILINE,
    )
    assert len(shown) == 5
    for layers, patches, prefix, width, *sizes in shown:
        one, total, byte = (float(number) * SIZES[unit] for number, unit in map(str.split, sizes))
        n_images, n_tokens, dim = 1_331_167, int(patches) + int(prefix), int(width)
        assert one == pytest.approx(n_images * (n_tokens * dim * 2 + dim * 4), rel=0.006)
        assert total == pytest.approx(int(layers) * one, rel=0.006)
        assert byte == pytest.approx(n_images * int(layers) * (n_tokens * (dim + 2) + dim * 4), rel=0.006)


def test_the_sizing_script_reads_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("sizing", ROOT / "benchmarks" / "sizing.py")
    assert spec is not None and spec.loader is not None
    sizing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sizing)
    assert len(sizing.MODELS) == 5 and "\n".join(sizing.HEADER) in PAGE
    monkeypatch.setattr(sizing, "N_IMAGES", {"train": 1024, "val": 1024})
    small = {"img_size": 28, "patch_size": 14, "embed_dim": 100, "depth": 2, "num_heads": 2}
    [row] = sizing.rows(sizing.make_data(tmp_path), [("timm:VisionTransformer", small)])
    assert row == (
        "| VisionTransformer at 28 | 2 | 4 patch (2 × 2) + 1 prefix, 100 wide | 2.87 MB | 5.73 MB | 3.73 MB |"
    )
