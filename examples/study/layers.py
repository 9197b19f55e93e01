"""Where is the information? Every layer with every head, and several layers together: joined or stacked.

    python examples/study/layers.py  # needs six minutes

Joined layers have their channels side by side, stacked ones their tokens. `alf` reads the class token and the mean of
each stacked layer, and trains as its paper says: with AdamW, noise and clipped gradients.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from poolings import HEADS
from setting import Study, ask, judgements, points, spread

from tokenprobe.probe.report.compare import Judged, difference
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.grids import draw_heat_map
from tokenprobe.probe.report.summary import best_layers
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store

EP = "ep:queries=8"
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
    report, found = found_of(study.fit("single", stores, layers="all"))
    best = {str(row.spec): str(row.layer) for row in best_layers(report.summary).itertuples()}
    rows = [["head", *layers, "selected", "− last layer"]]
    for spec, layer in best.items():
        last, chosen = found.get((spec, layers[-1])), found.get((spec, layer))
        of_layers = (marked(found.get((spec, each)), last) for each in layers)
        rows.append([f"`{spec}`", *of_layers, f"{layer}: {shown(chosen)}", less(chosen, last)])
    several = rows_of_several(study, stores, layers, {key[0]: found.get(key) for key in best.items()})
    note = (
        "Layers count from 0. A layer's figure is bold if its difference from the last layer has an interval without "
        "0. The selected layer has the highest mean over seeds on held-out images. Its difference from the last layer, "
        "and those of joined and stacked layers from it, are paired by test image. The last difference of `alf` is "
        f"from `{EP}` on its selected layer. `alf` trains with AdamW at 0.001 or 0.01, three times as long. Frames in "
        "the figure mark the selected layers."
    )
    with styled("paper"):
        figure = draw_heat_map(report)
    assert figure is not None
    study.write(rows, note, figure, several)


def rows_of_several(
    study: Study, stores: dict[str, Path], layers: list[str], selected: dict[str, Found | None]
) -> list[list[str]]:
    """Fit heads on all layers joined and on all of them stacked, and compare them with their selected layer."""
    joined = study.fit("joined", stores, layers="+".join(layers), heads=JOINED)
    stacked = study.fit("stacked", stores, layers="stack:all", heads=[EP])
    fusion = study.fit("fusion", stores, epochs=3 * study.epochs, **FUSION)
    forms = [{spec: each for (spec, _), each in found_of(*runs)[1].items()} for runs in ([joined], [stacked, fusion])]
    rows = [["head", "selected layer", "joined", "− selected", "stacked", "− selected"]]
    for spec in dict.fromkeys([*forms[0], *forms[1]]):
        row, base = [f"`{spec}`", shown(selected.get(spec))], selected.get(spec, selected[EP])
        for form in forms:
            row += [shown(form.get(spec)), less(form.get(spec), base)]
        rows.append(row)
    return rows


def found_of(*runs: Run) -> tuple[Report, dict[tuple[str, str], Found]]:
    """Return the report of runs, and what their heads reach, by spec and layer."""
    report, judged = judgements(*runs)
    cells = report.cells[report.cells["selected"]]
    right = {(spec, layer): each for (_, spec, _, layer), each in judged.items()}
    groups = cells.groupby(["spec", "layer"], sort=False)["test_top1"]
    return report, {(str(spec), str(layer)): (tests, right[spec, layer]) for (spec, layer), tests in groups}


def shown(found: Found | None) -> str:
    """Return the mean and the deviation over seeds in percent."""
    return spread(found[0]) if found else "–"


def marked(found: Found | None, last: Found | None) -> str:
    """Return the mean over seeds in percent; bold if it differs from the last layer by more than chance."""
    if found is None:
        return "–"
    text = f"{100 * found[0].mean():.1f}"
    return f"**{text}**" if less(found, last).startswith("**") else text


def less(one: Found | None, other: Found | None) -> str:
    """Return the difference of two heads with its interval, unless one is missing or they are the same."""
    return points(difference(one[1], other[1]) if one and other and one is not other else None)


if __name__ == "__main__":
    main(ask("layers", __doc__, HEADS))
