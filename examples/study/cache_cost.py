"""What does a cache cost? Accuracy against the number of cached views, and against a fresh crop in every epoch.

    python examples/study/cache_cost.py  # needs two minutes

The fresh crops come from `online.py`, which trains the same heads with the backbone in the loop. With the fixed views
of a float32 store it must give the numbers of that store. The note below the table says how far they differ.
"""

from typing import Any

import numpy as np
from online import fit_online
from setting import Study, ask, folder_mib, judgements, panel, points, spread

from tokenprobe.probe.grid.cells import store_of
from tokenprobe.probe.report.compare import difference
from tokenprobe.probe.run.predictions import read_images, read_predicted
from tokenprobe.probe.run.results import Run

HEADS = ["linear:pool=mean", "ep:queries=8"]
VIEWS, EXACT_VIEWS = [1, 2, 4, 8], 4
CROPS: dict[str, Any] = {"view_scale": [0.4, 1.0]}
FRESH = "fresh in every epoch"


def main(study: Study) -> None:
    stores = {f"{n} cached": study.store(f"views{n}", views=n, **CROPS) for n in VIEWS}
    report, judged = judgements(study.fit("views", stores))
    configs = study.extractions(f"views{VIEWS[0]}", views=study.epochs, **CROPS)
    online = fit_online(configs, stores["1 cached"], study.fitting("online"), study.epochs)
    fresh, of_fresh = judgements(online)
    cells = {name: report.cells[report.cells["backbone"] == name] for name in stores} | {FRESH: fresh.cells}
    by_spec = {key[1]: each for key, each in of_fresh.items()}
    rows = [
        ["views per training image", "MiB", *(f"`{head}`" if i else "− fresh" for head in study.heads for i in (1, 0))]
    ]
    figure, axes = panel(xlabel="views per training image", ylabel="test top-1 (%)", xscale="log")
    tests: dict[str, list[Any]] = {head: [] for head in study.heads}
    for name, of_name in cells.items():
        row = [name, "–" if name == FRESH else f"{folder_mib(stores[name]):.0f}"]
        for head in study.heads:
            chosen = of_name["test_top1"][of_name["selected"] & (of_name["spec"] == head)]
            ours = next((each for key, each in judged.items() if key[:2] == (name, head)), None)
            row += [spread(chosen), points(difference(ours, by_spec[head]) if ours else None)]
            tests[head].append((100 * chosen.mean(), 100 * chosen.std()))
        rows.append(row)
    for head, found in tests.items():
        axes.errorbar([*VIEWS, study.epochs], *zip(*found, strict=True), marker="o", ms=3, capsize=2, label=head)
    axes.set_xticks([*VIEWS, study.epochs], [*map(str, VIEWS), f"{study.epochs}\nfresh"])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    least, most = CROPS["view_scale"]
    note = (
        f"Crops cover {100 * least:.0f} to {100 * most:.0f} % of the image. MiB are those of the float16 store, test "
        f"images included. {exactness(study)}"
    )
    study.write(rows, note, figure)


def exactness(study: Study) -> str:
    """Fit from a float32 store and with the backbone in the loop, on equal views, and say how far they differ."""
    exact = study.store("exact", views=EXACT_VIEWS, dtype="float32", **CROPS)
    cached = study.fit("exact", {"exact": exact})
    configs = study.extractions("exact", views=EXACT_VIEWS, dtype="float32", **CROPS)
    online = fit_online(configs, exact, study.fitting("exact_online"), EXACT_VIEWS)
    loss, n_equal, n_all = differences(cached, online)
    return (
        f"With {EXACT_VIEWS} fixed views and float32 tokens, cache and backbone in the loop differ by at most "
        f"{loss:.1g} in a training loss, and agree in {n_equal:,} of {n_all:,} predicted test classes."
    )


def differences(cached: Run, online: Run) -> tuple[float, int, int]:
    """Return the largest difference of a cell's loss in an epoch, and how many predictions are equal, of how many."""
    key = ["layer", "head", "head_config", "lr", "seed"]
    ours, theirs = (run.results.merge(run.history[["cell", "epoch", "train_loss"]]) for run in (cached, online))
    losses = ours.merge(theirs, on=[*key, "epoch"], validate="one_to_one")
    assert len(losses) == len(cached.history) == len(online.history)
    pairs = cached.results.merge(online.results, on=key, validate="one_to_one")
    pairs = pairs[pairs["selected_x"] & pairs["selected_y"]]
    equal = [_predicted(cached, row.cell_x) == _predicted(online, row.cell_y) for row in pairs.itertuples()]
    return float((losses["train_loss_x"] - losses["train_loss_y"]).abs().max()), int(np.sum(equal)), int(np.size(equal))


def _predicted(run: Run, cell: str) -> Any:
    images = read_images(run.path, store_of(cell))
    test = run.results.set_index("cell")["test_top1"][cell]
    assert images is not None
    return read_predicted(run.path, cell, images, test)


if __name__ == "__main__":
    main(ask("cache_cost", __doc__, HEADS, epochs=16))
