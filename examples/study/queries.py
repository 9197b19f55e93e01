"""How many queries, and how wide an output, does EP need?

python examples/study/queries.py  # needs one minute
"""

from setting import Study, ask, judgements, panel, points, spread

from tokenprobe.probe.report.compare import difference

QUERIES, D_OUT = [1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8]
LINEAR = "linear:pool=mean"
HEADS = [LINEAR, *(f"ep:queries={q},d_out={d}" for d in D_OUT for q in QUERIES if q * d <= 64)]


def main(study: Study) -> None:
    report, judged = judgements(study.fit("queries", {"mae": study.store("mae")}))
    cells = report.cells[report.cells["selected"]]
    of_spec = {key[1]: each for key, each in judged.items()}
    rows, (figure, axes) = [["head", "parameters", "top-1", "gain"]], panel(xlabel="queries", ylabel="test top-1 (%)")
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for spec, chosen in cells.groupby("spec", sort=False):
        gain = points(difference(of_spec[spec], of_spec[LINEAR])) if spec != LINEAR else "–"
        rows.append([f"`{spec}`", f"{chosen['n_params'].iloc[0]:,}", spread(chosen["test_top1"]), gain])
        settings = dict(each.split("=") for each in spec.partition(":")[2].split(","))
        if "queries" in settings:
            found = 100 * chosen["test_top1"]
            curve = curves.setdefault(f"d_out {settings.get('d_out', '1')}", [])
            curve.append((int(settings["queries"]), found.mean(), found.std()))
    for label, curve in curves.items():
        axes.errorbar(*zip(*sorted(curve), strict=True), marker="o", ms=3, capsize=2, label=label)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=7)
    study.write(rows, f"Gain: points over `{LINEAR}`, paired by test image.", figure)


if __name__ == "__main__":
    main(ask("queries", __doc__, HEADS))
