"""Does attention pay? Every pooling against the linear heads, on pretrained weights and on random ones.

    python examples/study/poolings.py  # needs two minutes

Random weights are the control: what attention gains there, it gains without any help of pretraining. `abmilp` and
`dinovit` cost 20 to 60 times as much as EP with 8 queries, so they come only if `--heads` names them.
"""

from setting import Study, ask, judgements, panel, points, spread

from tokenprobe.probe.report.compare import Judged, bootstrap, difference

LINEAR = "linear:pool=mean"
HEADS = [
    LINEAR, "linear:pool=cls", "linear:pool=cls+mean", "ep:queries=8", "ep:queries=32", "simpool",
    "esimpool:heads=8", "clip", "siglip", "aim", "cbam", "coca", "cait", "jepa", "dolg", "cae",
]  # fmt: skip
COLUMNS = ["head", "parameters", "MFLOP", "pretrained", "gain", "random", "gain", "gain − gain on random"]


def main(study: Study) -> None:
    stores = {"mae": study.store("mae"), "random": study.store("random", checkpoint=study.random_weights())}
    report, judged = judgements(study.fit("poolings", stores))
    cells = report.cells[report.cells["selected"]]
    of_spec = {spec: judged_of(judged, spec) for spec in dict.fromkeys(cells["spec"])}
    linear = of_spec[LINEAR]
    rows, (figure, axes) = [COLUMNS], panel(2, xlabel="test top-1 (%)")
    for spec, (mae, random) in of_spec.items():
        chosen = cells[cells["spec"] == spec]
        tests = {name: chosen["test_top1"][chosen["backbone"] == name] for name in stores}
        flops, n_params = chosen["flops_forward"].iloc[0] / 1e6, chosen["n_params"].iloc[0]
        more = bootstrap((mae.right - linear[0].right) - (random.right - linear[1].right))
        gains = [
            difference(one, base) if spec != LINEAR else None for one, base in zip((mae, random), linear, strict=True)
        ]
        rows.append([
            f"`{spec}`", f"{n_params:,}", f"{flops:.2f}", spread(tests["mae"]), points(gains[0]),
            spread(tests["random"]), points(gains[1]), points(more if spec != LINEAR else None),
        ])  # fmt: skip
        for of_store, found in zip(axes, tests.values(), strict=True):
            place = f"{spec}, {flops:.2g} MFLOP"
            of_store.errorbar(100 * found.mean(), place, xerr=100 * found.std(), fmt="o", ms=3, color="C0")
    for of_store, title in zip(axes, ("pretrained", "random weights"), strict=True):
        of_store.set_title(title, fontsize="medium")
        of_store.tick_params(axis="y", labelsize="small", labelleft=of_store is axes[0])
        of_store.invert_yaxis()
    study.write(
        rows, f"Gains are points over `{LINEAR}`, paired by test image. Parameters and MFLOP are the head's.", figure
    )


def judged_of(judged: dict[tuple[str, ...], Judged], spec: str) -> tuple[Judged, Judged]:
    """Return the judgements of a head on pretrained and on random weights."""
    of_store = {key[0]: each for key, each in judged.items() if key[1] == spec}
    return of_store["mae"], of_store["random"]


if __name__ == "__main__":
    main(ask("poolings", __doc__, HEADS))
