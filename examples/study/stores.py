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
    stores = {name: study.store(f"store{i}", views=2, **changes) for i, (name, changes) in enumerate(KINDS.items())}
    rows = [["store", "MiB", *(f"`{head}`" if i else "− float32" for head in study.heads for i in (1, 0))]]
    figure, axes = panel(xlabel="difference from float32, points", xlim=(-3, 3))
    judged = {}
    for place, (name, path) in enumerate(stores.items()):
        report, found = judgements(study.fit(f"store{place}", {f"s{place}": path}))
        judged[name] = {key[1]: each for key, each in found.items()}
        row = [name, f"{folder_mib(path):.1f}"]
        for number, head in enumerate(study.heads):
            chosen = report.cells["test_top1"][report.cells["selected"] & (report.cells["spec"] == head)]
            lost = difference(judged[name][head], judged["float32"][head])
            row += [spread(chosen), points(lost) if place else "–"]
            if place and lost:
                ends = [[100 * (lost.value - lost.low)], [100 * (lost.high - lost.value)]]
                y, label = -place - 0.15 * number, head if place == 1 else None
                axes.errorbar(100 * lost.value, y, xerr=ends, fmt="o", color=f"C{number}", label=label)
        rows.append(row)
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_yticks([-place for place in range(1, len(stores))], list(stores)[1:])
    axes.legend()
    study.write(rows, "MiB are those of the whole store. Means of tokens are float32 in every store.", figure)


if __name__ == "__main__":
    main(ask("stores", __doc__, HEADS))
