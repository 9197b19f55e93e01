"""How many labels does each head need?

    python examples/study/labels.py  # needs one minute

A seed draws the labelled images, so the deviation over seeds includes their choice.
"""

from setting import Study, ask, judgements, spread

from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.curves import draw_shots

HEADS = ["ncm", "ridge", "logreg", "linear:pool=mean", "ep:queries=8"]
SHOTS = ["1", "2", "4", "8", "16", "full"]


def main(study: Study) -> None:
    stores = {"mae": study.store("mae")}
    report, _ = judgements(study.fit("labels", stores, shots=SHOTS))
    cells = report.cells[report.cells["selected"]]
    rows = [["head", *(f"{shots} per class" for shots in SHOTS[:-1]), "all"]]
    for spec, of_head in cells.groupby("spec", sort=False):
        rows.append([f"`{spec}`", *(spread(of_head["test_top1"][of_head["shots"] == shots]) for shots in SHOTS)])
    with styled("paper"):
        figure = draw_shots(report)
    assert figure is not None
    study.write(rows, "Solvers choose their penalty within the labelled images.", figure)


if __name__ == "__main__":
    main(ask("labels", __doc__, HEADS, lr=(30.0,)))
