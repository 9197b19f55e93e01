"""How many labels does each head need?

    python examples/lowshot_sweep.py mae.zarr -o runs/lowshot

Probes the last layer with 1, 4 and 16 training images per class and with all images. Each of five seeds draws its own
subset and initial weights. Prints mean and standard deviation, and writes them to RUN/lowshot.csv. The smallest subset
must have at least k images for k-NN: with fewer than ten classes, give other --heads or --shots.
"""

import argparse

from tokenprobe.probe import FitConfig, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("-o", "--out", required=True)
    parser.add_argument("--heads", nargs="+", default=["ep:queries=32", "linear:pool=mean", "knn:k=10", "ridge"])
    parser.add_argument("--shots", nargs="+", default=["1", "4", "16", "full"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=90)
    args = parser.parse_args()

    config = FitConfig(
        out=args.out, heads=args.heads, layers="-1", shots=args.shots, seeds=args.seeds, epochs=args.epochs
    )
    run = fit(args.store, config)

    # One learning rate (or penalty) per head and number of shots, selected over all seeds: trained heads
    # choose on held-out images, solvers on their own training images.
    selected = run.results[run.results["selected"]]
    accuracy = (100 * selected["test_top1"]).groupby([selected["head"], selected["head_config"], selected["shots"]])
    table = accuracy.agg(["mean", "std"]).unstack("shots").swaplevel(axis="columns")[args.shots]
    print(table.round(1).to_string())
    table.to_csv(run.path / "lowshot.csv")


if __name__ == "__main__":
    main()
