"""Where decoding, the network or the file system stops the scaling, by arithmetic from rates of one process.

    python benchmarks/arithmetic.py                   print the tables of docs/arithmetic.md
    python benchmarks/arithmetic.py --figure FILE     draw its figure

Nothing here was measured on more than one GPU. Each rate is the least of the rates that its parts allow.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Measured: one NVIDIA H200 with 16 processor cores, 2026-11-27, benchmarks/results/2026-11-27-one-h200-fused.md
FORWARD = 8_812  # images/s, ViT-B/16 in bfloat16, the forward pass alone
DECODED = 2_442 / 16  # images/s per core, JPEGs of 500 × 375 pixels with --decode exact
DISK = 7.5e9 / 2_048 * 332  # bytes/s, durable writes to its disk; from the run before, 2026-11-27-one-h200.md
STEP_IMAGES, STEPS = (
    1024,
    {64: 15.71e-3, 256: 61.11e-3},
)  # images of a training step; seconds, by heads trained together
# Assumed: a common machine, and a common shared file system
GPUS, CORES = 8, 96  # per machine
NETWORK, FILES = 25e9, 100e9  # bytes/s of one machine (200 Gb/s), and of the file system in all
JPEG = 110_000  # bytes of an image
# Known
N_IMAGES, N_TRAIN = 1_331_167, 1_281_167
LAYER = 197 * 768 * 2 + 768 * 4  # bytes of an image in one layer of ViT-B/16: tokens in float16, mean in float32
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
STORES = {"last layer": LAYER, "all 12 layers": 12 * LAYER}


def extraction(n_gpus: int, stored: int) -> dict[str, float]:
    """Return images/s that each part allows.

    Args:
        n_gpus: GPUs, on as few machines as possible.
        stored: bytes that are written per image.
    """
    n_machines, cores = -(-n_gpus // GPUS), n_gpus * CORES / GPUS
    return {
        "GPU": n_gpus * FORWARD,
        "decoding": cores * DECODED,
        "network": n_machines * NETWORK / (JPEG + stored),
        "file system": FILES / (JPEG + stored),
    }


def on_one_disk(n_gpus: int, stored: int) -> dict[str, float]:
    """Return images/s that each part allows on one machine that writes to one disk of its own."""
    allowed = extraction(n_gpus, stored)
    return {"GPU": allowed["GPU"], "decoding": allowed["decoding"], "disk": DISK / stored}


def training(n_gpus: int, n_heads: int) -> dict[str, float]:
    """Return images/s that each part allows, if each GPU trains on another layer and reads it in every epoch."""
    return {
        "GPU": n_gpus * STEP_IMAGES / STEPS[n_heads],
        "network": -(-n_gpus // GPUS) * NETWORK / LAYER,
        "file system": FILES / LAYER,
    }


def least(rates: dict[str, float]) -> tuple[str, float]:
    """Return the part that allows least, and its rate."""
    return min(rates.items(), key=lambda item: item[1])


def extraction_rows(allowed: Callable[[int, int], dict[str, float]], counts: Sequence[int]) -> Iterator[str]:
    """Yield a table of extraction: a row per number of GPUs."""
    yield "| GPUs |" + "".join(f" {name}: images/s | stopped by | ImageNet-1k |" for name in STORES)
    yield "|--:|" + "--:|---|--:|" * len(STORES)
    for n_gpus in counts:
        found = [least(allowed(n_gpus, stored)) for stored in STORES.values()]
        yield f"| {n_gpus} |" + "".join(f" {rate:,.0f} | {part} | {_time(N_IMAGES / rate)} |" for part, rate in found)


def training_rows() -> Iterator[str]:
    """Yield the table of training: a row per number of GPUs."""
    yield "| GPUs, each on its own layer |" + "".join(f" {n} heads: an epoch | stopped by |" for n in STEPS)
    yield "|--:|" + "--:|---|" * len(STEPS)
    for n_gpus in COUNTS:
        found = [least(training(n_gpus, n_heads)) for n_heads in STEPS]
        yield f"| {n_gpus} |" + "".join(f" {_time(n_gpus * N_TRAIN / rate)} | {part} |" for part, rate in found)


def tables() -> list[list[str]]:
    """Return the tables of the page: on one disk, on a shared file system, training."""
    one_machine = [n_gpus for n_gpus in COUNTS if n_gpus <= GPUS]
    return [
        [*extraction_rows(on_one_disk, one_machine)],
        [*extraction_rows(extraction, COUNTS)],
        [*training_rows()],
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def draw(path: Path) -> None:
    """Draw images/s over GPUs, and the limits."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panes = plt.subplots(1, len(STORES), figsize=(9, 3.6), sharey=True, layout="constrained")
    counts = sorted({*range(1, 1001)})
    for pane, (name, stored) in zip(panes, STORES.items(), strict=True):
        for part, colour in zip(extraction(1, stored), ("tab:green", "tab:blue", "tab:orange", "tab:red"), strict=True):
            pane.plot(counts, [extraction(n, stored)[part] for n in counts], color=colour, lw=1, ls="--", label=part)
        pane.plot(counts, [least(extraction(n, stored))[1] for n in counts], color="black", lw=2, label="extraction")
        pane.set(xscale="log", yscale="log", xlabel="GPUs", title=name, xlim=(1, 1000))
        pane.grid(alpha=0.3)
    panes[0].set_ylabel("images per second, at most")
    panes[-1].legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    if asked.figure:
        draw(asked.figure)
        return
    print("\n\n".join("\n".join(table) for table in tables()))


if __name__ == "__main__":
    main()
