"""Which layer is best, for each head?

python examples/study/layers.py  # needs one minute
"""

from setting import Study, ask, judgements, spread

from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.curves import draw_layers

HEADS = ["linear:pool=cls", "linear:pool=mean", "ep:queries=8", "aim", "knn:k=10", "ridge"]


def main(study: Study) -> None:
    stores = {"mae": study.store("all_layers", layers="all")}
    report, _ = judgements(study.fit("layers", stores, layers="all"))
    cells = report.cells[report.cells["selected"]]
    layers = sorted(cells["layer"].unique(), key=int)
    rows = [["head", *(f"layer {layer}" for layer in layers)]]
    for spec, of_head in cells.groupby("spec", sort=False):
        rows.append([f"`{spec}`", *(spread(of_head["test_top1"][of_head["layer"] == layer]) for layer in layers)])
    with styled("paper"):
        figure = draw_layers(report)
    assert figure is not None
    study.write(rows, "Layers are counted from 0. `knn` and `ridge` have no seeds.", figure)


if __name__ == "__main__":
    main(ask("layers", __doc__, HEADS))
