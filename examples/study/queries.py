"""How many queries does EP need, and how wide an output?

    python examples/study/queries.py  # needs one minute

Each query has its own attention map, and gives one block of the output. With `d_out` = d the output is d times
narrower, and so is the classifier.
"""

import pandas as pd
from matplotlib.figure import Figure
from setting import Study, ask, judgements, panel, points, spread

from tokenprobe.probe.report.compare import difference

LINEAR, REFERENCE = "linear:pool=mean", "ep:queries=8"
QUERIES = {n: f"ep:queries={n}" for n in (1, 2, 4, 8, 16, 32, 64)}
OUTPUTS = {1: REFERENCE} | {d: f"{REFERENCE},d_out={d}" for d in (2, 4, 8)}
HEADS = list(dict.fromkeys([LINEAR, *QUERIES.values(), *OUTPUTS.values()]))
COLUMNS = ["head", "parameters", "MFLOP", "test top-1", "− linear", "− 8 queries"]


def main(study: Study) -> None:
    report, judged = judgements(study.fit("queries", {"mae": study.store("mae")}))
    cells = report.cells[report.cells["selected"]]
    right = {key[1]: each for key, each in judged.items()}
    rows = [COLUMNS]
    for spec, chosen in cells.groupby("spec", sort=False):
        less = [points(difference(right[spec], right[base]) if spec != base else None) for base in (LINEAR, REFERENCE)]
        flops, n_params = chosen["flops_forward"].iloc[0] / 1e6, chosen["n_params"].iloc[0]
        rows.append([f"`{spec}`", f"{n_params:,}", f"{flops:.2f}", spread(chosen["test_top1"]), *less])
    note = (
        f"Differences are from `{LINEAR}` and from `{REFERENCE}`, paired by test image. Parameters and MFLOP are the "
        "head's."
    )
    study.write(rows, note, draw(cells.groupby("spec", sort=False)["test_top1"].agg(["mean", "std"]) * 100))


def draw(tests: pd.DataFrame) -> Figure:
    """Draw the figure over queries, and over d_out beside it. `tests` has mean and deviation in percent, by spec."""
    figure, (left, right) = panel(2, ylabel="test top-1 (%)")
    right.sharey(left)
    linear = tests.loc[LINEAR]
    for axes, words, heads in ((left, "queries", QUERIES), (right, "d_out, with 8 queries", OUTPUTS)):
        shown = tests.reindex(heads.values())
        axes.errorbar(list(heads), shown["mean"], shown["std"], marker="o", ms=4, capsize=2, label="EP")
        axes.axhline(linear["mean"], color="C1", label="linear")
        axes.axhspan(linear["mean"] - linear["std"], linear["mean"] + linear["std"], color="C1", alpha=0.2, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(heads), list(map(str, heads)))
        axes.set_xlabel(words)
    left.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    main(ask("queries", __doc__, HEADS))
