"""Captions define all that their tables print."""

from collections.abc import Callable
from pathlib import Path

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.write import write_text

MakeReport = Callable[..., Report]


def test_captions_define_what_their_tables_print(make_report: MakeReport, tmp_path: Path) -> None:
    spread = [{"head": head, "seed": seed, "test": 0.5} for head, n in (("ep", 3), ("aim", 2)) for seed in range(n)]
    alone = {"head": "ridge", "head_config": "", "lr": float("nan"), "test": 0.4, "layer": "1"}
    write_text(make_report(*spread, alone), tmp_path)
    chosen = (
        "Protocol select. EP, 8 queries; AIM, 8 queries: epoch is selected on held-out images. "
        "Ridge regression: nothing is selected. "
    )
    seeds = r"$\pm$ is the standard deviation over 2 to 3 seeds, which differ in initialisation"
    bold = "Bold: the best, and each figure whose difference from it may be chance."
    of, data = "timm:none on made", r"in \%, all training images, 200 test images. "
    for name, caption in {
        "backbones": f"Test top-1 on made {data}{chosen}@ is the selected layer. {seeds}. {bold}",
        "cost": f"Cost on made at the selected layer, beside test top-1 {data}{chosen}{seeds}.",
        "layers": f"Test top-1 of {of} {data}{chosen}{seeds}.",
        "shots": f"Test top-1 of {of} {data}{chosen}@ is the selected layer. {seeds}.",
    }.items():
        text = (tmp_path / "tables" / f"{name}.tex").read_text()
        assert f"\\caption{{{caption}}}\n" in text, name
        assert r"$\pm$" in text.partition(r"\caption")[0], "the table shows a spread"
        assert ("@" in caption) == ("@" in text.partition(r"\caption")[0])
    summary = (tmp_path / "summary.md").read_text()
    assert "± is the standard deviation over 2 to 3 seeds, which" in summary, "one seed has no ±"
