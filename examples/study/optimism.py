"""How optimistic is a figure chosen on the test split? Protocol `select` against protocol `paper`.

    python examples/study/optimism.py  # needs one minute

`select` chooses rate and epoch on held-out training images. `paper` chooses them on the test split that it reports, and
trains on the held-out images as well. So the column *peak* is fairer: it is the best rate and epoch on the test split
of the very heads that `select` chose among.
"""

import pandas as pd
from setting import Study, ask, panel, spread

HEADS = ["linear:pool=mean", "linear:pool=cls", "ep:queries=8", "ep:queries=32"]
COLUMNS = ["head", "select", "peak", "optimism", "last epoch of `select`", "paper", "paper, one rate of 0.1"]


def main(study: Study) -> None:
    stores = {"mae": study.store("mae")}
    select = study.fit("select", stores).results
    paper = study.fit("paper", stores, protocol="paper").results
    published = study.fit("published", stores, protocol="paper", lr=0.1).results
    rows, (figure, axes) = [COLUMNS], panel(ylabel="test top-1 (%)")
    for place, spec in enumerate(study.heads):
        of_head = [each[spec_of(each) == spec] for each in (select, paper, published)]
        selected, of_paper, of_published = (each[each["selected"]].set_index("seed") for each in of_head)
        peak = of_head[0].groupby("seed")["peak_test_top1"].max()
        optimism = 100 * (peak - selected["test_top1"])
        rows.append([
            f"`{spec}`", spread(selected["test_top1"]), spread(peak), f"{optimism.mean():+.1f} ± {optimism.std():.1f}",
            spread(selected["last_test_top1"]), spread(of_paper["test_top1"]), spread(of_published["test_top1"]),
        ])  # fmt: skip
        found = {"select": selected["test_top1"], "peak": peak, "paper": of_paper["test_top1"]}
        for number, (name, tests) in enumerate(found.items()):
            label = name if place == 0 else None
            x = place + 0.2 * (number - 1)
            axes.errorbar(x, 100 * tests.mean(), 100 * tests.std(), fmt="o", ms=4, color=f"C{number}", label=label)
    axes.set_xticks(range(len(study.heads)), [head.replace(":", "\n") for head in study.heads], fontsize=6)
    axes.legend(fontsize=7, loc="lower right")
    note = "Optimism is peak − select, per seed: mean and deviation over seeds."
    study.write(rows, note, figure)


def spec_of(results: pd.DataFrame) -> pd.Series:
    """Return the spec of each cell."""
    return results["head"] + ":" + results["head_config"]


if __name__ == "__main__":
    main(ask("optimism", __doc__, HEADS, lr=(1.0, 3.0, 10.0, 30.0, 100.0, 300.0)))
