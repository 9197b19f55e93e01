"""What does a smaller store cost? float16, bfloat16, int8 and fast decoding against float32 and exact decoding.

    python examples/study/stores.py  # needs one minute

Two views per training image: the second is a random crop, so that decoding resamples.
"""

from typing import Any

from setting import Study, ask, folder_mib, judgements, panel, points, spread

from tokenprobe.probe.report.compare import difference

HEADS = ["linear:pool=cls", "ep:queries=8"]
KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "float16, decode fast": {"dtype": "float16", "decode": "fast"},
}


def main(study: Study) -> None:
    stores = {f"s{i}": study.store(f"s{i}", views=2, **changes) for i, changes in enumerate(KINDS.values())}
    report, judged = judgements(study.fit("stores", stores))
    cells = report.cells[report.cells["selected"]]
    right = {key[:2]: each for key, each in judged.items()}
    rows = [["store", "MiB", *(f"`{head}`" if i else "− float32" for head in study.heads for i in (1, 0))]]
    figure, axes = panel(xlabel="difference from float32, points")
    for place, (label, (name, path)) in enumerate(zip(KINDS, stores.items(), strict=True)):
        row = [label, f"{folder_mib(path):.1f}"]
        for number, head in enumerate(study.heads):
            tests = cells["test_top1"][(cells["backbone"] == name) & (cells["spec"] == head)]
            lost = difference(right[name, head], right["s0", head]) if place else None
            row += [spread(tests), points(lost)]
            if lost:
                ends = [[100 * (lost.value - lost.low)], [100 * (lost.high - lost.value)]]
                y, said = -place - 0.15 * number, head if place == 1 else None
                axes.errorbar(100 * lost.value, y, xerr=ends, fmt="o", color=f"C{number}", label=said)
        rows.append(row)
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_yticks([-place for place in range(1, len(stores))], list(KINDS)[1:])
    axes.legend(fontsize=7)
    study.write(rows, "MiB are those of the whole store. Means of tokens are float32 in every store.", figure)


if __name__ == "__main__":
    main(ask("stores", __doc__, HEADS))
