"""Which layer of a backbone is best for each head?

    python examples/layerwise_sweep.py mae.zarr -o runs/layers

Probes every stored layer with each head, prints the table and draws it to RUN/layers.png.
"""

import argparse

from matplotlib.figure import Figure

from tokenprobe.probe import FitConfig, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--heads", nargs="+", default=["ep:queries=32", "linear:pool=cls", "linear:pool=mean"])
    parser.add_argument("--epochs", type=int, default=90)
    args = parser.parse_args()

    run = fit(args.store, FitConfig(out=args.out, heads=args.heads, layers="all", epochs=args.epochs))

    # One row per cell. For each head and layer, the learning rate is selected on held-out training images.
    selected = run.results[run.results["selected"]]
    selected = selected.assign(
        layer=selected["layer"].astype(int), label=selected["head"] + " " + selected["head_config"]
    )
    table = 100 * selected.pivot_table(index="layer", columns="label", values="test_top1")
    print(table.round(1).to_string())

    figure = Figure(layout="constrained")
    table.plot(ax=figure.add_subplot(), marker="o", xlabel="layer", ylabel="test top-1 (%)", grid=True)
    figure.savefig(run.path / "layers.png")


if __name__ == "__main__":
    main()
