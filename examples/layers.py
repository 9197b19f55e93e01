"""Which layers hold the information: the best one, all joined, or all under attentive layer fusion?

    python examples/layers.py mae.zarr -o runs/where

For each form, seed 0 selects layer, rate and dropout on held-out training images. Then the selected setting is trained
with all seeds. Prints one row per form: test top-1 (mean and standard deviation over seeds), its 95 % interval over
test images, and its difference from `alf` with an interval over the same images.
"""

import argparse
from pathlib import Path
from typing import Any

from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.report.compare import Judged, difference, own_interval
from tokenprobe.probe.report.contents import gather
from tokenprobe.store import open_store

HEADS = {"EP": "ep:queries=8", "linear": "linear:pool=cls+mean"}
RATES = [3, 30, 300, 3000]
FUSION: dict[str, Any] = {
    "heads": ["alf:dropout=0|0.1"],
    "layers": "stack:all",
    "optimizer": "adamw",
    "lr": [1e-4, 1e-3, 1e-2, 1e-1],
    "weight_decay": [0.01],
    "clip_grad": 5.0,
    "noise": 0.05,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()

    joined = "+".join(map(str, open_store(args.store).layers))
    common = {"batch_size": args.batch_size, "device": "cpu"}
    forms = {
        f"{name}, {words}": {"heads": [spec], "layers": layers, "lr": RATES, "epochs": args.epochs}
        for words, layers in (("best layer", "all"), ("layers joined", joined))
        for name, spec in HEADS.items()
    } | {"alf": FUSION | {"epochs": 3 * args.epochs}}
    rows = {}
    for number, (form, settings) in enumerate(forms.items()):
        chosen = choose(args.store, args.out / f"{number}-choice", settings | common)
        run = fit(
            args.store, FitConfig(**settings | common | chosen | {"out": args.out / str(number), "seeds": args.seeds})
        )
        report = gather([run])
        [judged] = report.judged.values()
        rows[form] = chosen["layers"], chosen["lr"], report.summary.iloc[0], judged
    print_table(rows)


def choose(store: str, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the setting with the highest figure on held-out images, of one seed."""
    results = fit(store, FitConfig(**settings | {"out": out, "seeds": 1})).results
    best = results.loc[results["val_top1"].idxmax()]
    return {"layers": best["layer"], "lr": best["lr"], "heads": [f"{best['head']}:{best['head_config']}"]}


def print_table(rows: dict[str, tuple[str, float, Any, Judged]]) -> None:
    """Print a Markdown table, in percent."""
    print("| form | layers | rate | test top-1 | interval | minus `alf` |\n|---|---|--:|--:|--:|--:|")
    for form, (layers, rate, figure, judged) in rows.items():
        own, behind = own_interval(judged), difference(judged, rows["alf"][3])
        assert behind is not None
        less = (
            "" if form == "alf" else f"{100 * behind.value:+.1f} ({100 * behind.low:+.1f} to {100 * behind.high:+.1f})"
        )
        print(
            f"| {form} | {layers} | {rate:g} | {100 * figure['test']:.1f} ± {100 * figure['test_std']:.1f} "
            f"| {100 * own.low:.1f} to {100 * own.high:.1f} | {less} |"
        )


if __name__ == "__main__":
    main()
