"""Where is the information? Every layer with every head, and several layers together: joined or stacked.

    python examples/study/layers.py  # needs three minutes

Joined layers have their channels side by side, stacked ones their tokens. `alf` reads the class token and the mean of
each stacked layer, and trains as its paper says: with AdamW, noise and clipped gradients.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from setting import Study, ask, judgements, points, spread

from tokenprobe.probe.report.compare import Judged, difference
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.curves import draw_layers
from tokenprobe.probe.report.figures.looks import look_of
from tokenprobe.probe.report.summary import best_layers
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store

EP = "ep:queries=8"
HEADS = ["linear:pool=mean", "linear:pool=cls", EP, "aim", "cait", "cbam"]
JOINED = ["linear:pool=mean", "linear:pool=cls", EP]
FUSION: dict[str, Any] = {
    "heads": ["alf"],
    "layers": "stack:all",
    "optimizer": "adamw",
    "lr": [1e-3, 1e-2],
    "weight_decay": 0.01,
    "clip_grad": 5.0,
    "noise": 0.05,
}
Found = tuple[pd.Series, Judged]
"""Test accuracy of a head by seed, and which images it judges right."""


def main(study: Study) -> None:
    stores = {"mae": study.store("layers", layers="all")}
    layers = list(map(str, open_store(stores["mae"]).layers))
    runs = [
        study.fit("single", stores, layers="all"),
        study.fit("joined", stores, layers="+".join(layers), heads=JOINED),
        study.fit("stacked", stores, layers="stack:all", heads=[EP]),
    ]
    fusion = study.fit("fusion", stores, epochs=3 * study.epochs, **FUSION)
    report, found = found_of(*runs)
    fused = found_of(fusion)[1]
    found |= fused
    chosen = best_layers(report.summary[report.summary["layer"].isin(layers)])
    best = dict(zip(chosen["spec"], chosen["layer"], strict=True))
    rows = [["head", *layers, "selected", "− last layer", "joined", "− selected", "stacked", "− selected"]]
    for spec in dict.fromkeys(spec for spec, _ in found):
        single = found.get((spec, best.get(spec, "")))
        last = found.get((spec, layers[-1]))
        row = [f"`{spec}`", *(mean_of(found.get((spec, layer))) for layer in layers)]
        row += [f"{best[spec]}: {spread(single[0])}" if single else "–", less(single, last)]
        for together in ("+".join(layers), "stack:" + "+".join(layers)):
            form = found.get((spec, together))
            row += [spread(form[0]) if form else "–", less(form, single or found[EP, best[EP]])]
        rows.append(row)
    note = (
        "Layers count from 0. The selected one has the highest mean over seeds on held-out images. Its difference from "
        "the last layer, and those of joined and stacked layers from it, are paired by test image. The last difference "
        f"of `alf` is from `{EP}` on its selected layer. `alf` trains with AdamW at 0.001 or 0.01, three times as "
        "long. Rings in the figure mark the choice among a head's single and joined layers."
    )
    study.write(rows, note, draw(report, *fused.values()))


def found_of(*runs: Run) -> tuple[Report, dict[tuple[str, str], Found]]:
    """Return the report of runs, and what their heads reach, by spec and layer."""
    report, judged = judgements(*runs)
    cells = report.cells[report.cells["selected"]]
    right = {(spec, layer): each for (_, spec, _, layer), each in judged.items()}
    groups = cells.groupby(["spec", "layer"], sort=False)["test_top1"]
    return report, {(str(spec), str(layer)): (tests, right[spec, layer]) for (spec, layer), tests in groups}


def mean_of(found: Found | None) -> str:
    """Return the mean over seeds in percent."""
    return f"{100 * found[0].mean():.1f}" if found else "–"


def less(one: Found | None, other: Found | None) -> str:
    """Return the difference of two heads with its interval, unless one is missing or they are the same."""
    return points(difference(one[1], other[1]) if one and other and one is not other else None)


def draw(report: Report, fused: Found) -> Figure:
    """Draw the figure of the package's reports, with `alf` beside the other stacked head."""
    with styled("paper"):
        figure = draw_layers(report)
        assert figure is not None
        axes, look = figure.axes[0], look_of("alf")
        place, tests = axes.get_xticks()[-1], 100 * fused[0]
        axes.errorbar(place, tests.mean(), tests.std(), capsize=2, label="alf, stacked", **look.points)
        axes.legend()
    return figure


if __name__ == "__main__":
    main(ask("layers", __doc__, HEADS))
