"""How few labels does each head need? From one training image per class to all, with the preset `few-labels`.

    python examples/study/labels.py  # needs two minutes

Each seed draws its own subset and initial weights. All heads of a seed train on the same subset.
"""

from math import sqrt

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t
from setting import Study, ask, judgements, points, spread

from tokenprobe.probe.presets import load_preset
from tokenprobe.probe.report.compare import LEVEL, Interval, difference
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.curves import draw_shots

RIDGE, LINEAR = "ridge:pool=mean", "linear:pool=mean"
HEADS = [*load_preset("few-labels").settings["heads"], "knn:k=10"]
SHOTS = ["1", "2", "4", "8", "16", "full"]


def main(study: Study) -> None:
    run = study.fit("labels", {"mae": study.store("mae")}, preset="few-labels", shots=SHOTS)
    report, judged = judgements(run)
    cells = report.cells[report.cells["selected"]].set_index("seed")
    tests = {key: of["test_top1"] for key, of in cells.groupby(["spec", "shots"], sort=False)}
    right = {key[1:3]: each for key, each in judged.items()}
    rows = [["head, training images per class", *SHOTS]]
    for spec in dict.fromkeys(spec for spec, _ in tests):
        rows.append([f"`{spec}`", *(spread(tests[spec, shots]) for shots in SHOTS)])
        for base in bases_of(spec):
            drawn = [points(over_seeds((tests[spec, shots] - tests[base, shots]).to_numpy())) for shots in SHOTS[:-1]]
            on_all = points(difference(right[spec, "full"], right[base, "full"]))
            rows.append([f"− {base.partition(':')[0]}", *drawn, on_all])
    with styled("paper"):
        figure = draw_shots(report)
    assert isinstance(figure, Figure)
    note = (
        "Settings of the preset `few-labels`. Seeds draw the subsets, so ± includes the choice of images. Differences "
        "from `ridge`, and of EP also from the linear head, are paired by subset, with 95 % t intervals over seeds. On "
        "all images nothing is drawn for heads without initial weights, and intervals are over test images."
    )
    study.write(rows, note, figure)


def bases_of(spec: str) -> list[str]:
    """Return the heads that a head is compared with."""
    return [base for base in (RIDGE, LINEAR) if base != spec and (base == RIDGE or spec.startswith("ep"))]


def over_seeds(values: NDArray[np.float64]) -> Interval:
    """Return the mean of values (n,), one per seed, with Student's interval for few seeds."""
    half = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values))
    return Interval(values.mean(), values.mean() - half, values.mean() + half, len(values))


if __name__ == "__main__":
    main(ask("labels", __doc__, HEADS, epochs=90, lr=[30.0]))
