"""The measurements of stage one in `gpu.py`: extraction against its limits."""

import json
import multiprocessing
import os
import shutil
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from gpu_bench import CORES, Bench, Found, Sizes
from PIL import Image
from rows import make_row  # the file beside this one

# All imports from the package are here.
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.loading import RowImages, Wanted, make_loader
from tokenprobe.extract.rows import choose_rows
from tokenprobe.extract.views import Transform, decoded_as
from tokenprobe.runtime.device import resolve_precision
from tokenprobe.runtime.workers import leave_signals_to_the_main_process
from tokenprobe.store.durable import write_durably

FORK = multiprocessing.get_context("fork")
IMAGES: dict[str, RowImages] = {}
"""The images that decoding processes inherit."""


def make_images(folder: Path, sizes: Sizes) -> Path:
    """Make JPEGs of two classes in parallel, unless they exist."""
    if not folder.exists():
        paths = [folder / "train" / str(index % 2) / f"{index:06d}.jpg" for index in range(sizes.jpegs)]
        for path in paths[:2]:
            path.parent.mkdir(parents=True)
        with FORK.Pool(CORES, leave_signals_to_the_main_process) as pool:
            pool.map(partial(make_jpeg, n_names=sizes.names), paths)
    return folder


def make_jpeg(path: Path, n_names: int) -> None:
    """Write blurred noise of 500 × 375 pixels, about 95 kB, under several names."""
    noise = np.random.default_rng(int(path.stem)).integers(0, 256, (125, 167, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=85)
    for index in range(1, n_names):
        os.link(path, path.with_stem(f"{path.stem}_{index}"))


def make_config(bench: Bench, layers: str, decode: Literal["exact", "fast"], limit: int | None) -> ExtractConfig:
    return ExtractConfig(
        model=bench.sizes.model,
        model_arg=bench.sizes.model_arg,
        no_pretrained=True,
        data=f"folder:{make_images(bench.folder / 'images', bench.sizes)}",
        out=bench.folder / "extracted.zarr",
        layers=layers,
        decode=decode,
        limit=limit,
        batch_size=bench.sizes.forward_batch,
        device=str(bench.device),
    )


def bare_forward(bench: Bench, backbone: Any) -> list[float]:
    """Time ten forward passes of the backbone alone, on noise already on the device."""
    module, enabled = backbone.module.to(bench.device), resolve_precision("auto", bench.device) != "float32"
    images = torch.randn(bench.sizes.forward_batch, 3, *backbone.transform.input_size, device=bench.device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16, enabled=enabled):
            for _ in range(10):
                module.forward_features(images)

    return bench.seconds(forward)[0]


def start_decoder() -> None:
    leave_signals_to_the_main_process()
    torch.set_num_threads(1)


def decode(row: int) -> None:
    assert torch.is_tensor(IMAGES["all"].pixels("train", row, 0))


def decoding(bench: Bench, config: ExtractConfig, transform: Transform) -> dict[str, float]:
    """Return images/s of processes that only decode, and of the loader, which also delivers batches.

    Both use one process per core and take turns, twice. The start of the processes is not counted.
    """
    source = open_dataset(config.data)
    rows = choose_rows(source.images("train"), set(), None, shuffled=True, seed=0)
    IMAGES["all"] = RowImages(source, {"train": rows}, transform)
    warm, half = 8 * CORES, len(rows) // 2
    rates: dict[str, list[float]] = {"decoders": [], "loader": []}
    for first in (0, half):
        of_half = range(first, first + half)
        with FORK.Pool(CORES, start_decoder) as pool:
            pool.map(decode, of_half[:warm], 1)
            start = time.perf_counter()
            pool.map(decode, of_half, 8)
            rates["decoders"].append(half / (time.perf_counter() - start))
        rates["loader"].append(loader_alone(of_half, config.batch_size, bench.on_gpu))
    return {name: median(of) for name, of in rates.items()}


def loader_alone(rows: range, batch_size: int, pinned: bool) -> float:
    """Return images/s from the first batch delivered to the last."""
    batches = [Wanted("train", rows[first : first + batch_size]) for first in range(0, len(rows), batch_size)]
    loader = make_loader(IMAGES["all"], batches, workers=CORES, pinned=pinned)
    n_first = len(next(loader).pixels)
    start = time.perf_counter()
    n_images = sum(len(batch.pixels) for batch in loader)
    return (n_images or n_first) / (time.perf_counter() - start)


def run_extraction(config: ExtractConfig) -> dict[str, Any]:
    """Extract; return images/s, up to the last durable byte, and the waiting times of the main process."""
    start = time.perf_counter()
    store = Path(extract(config))
    command = time.perf_counter() - start
    events = [json.loads(line) for line in (store / "journal.jsonl").read_text().splitlines()]
    finish = next(event for event in events if event.get("event") == "finish")
    waits = {name: finish[f"seconds_waited_for_{name}"] for name in ("images", "tokens", "disk")}
    sizes = [file.stat().st_size for file in store.rglob("*") if file.is_file()]
    n_images, seconds = finish["n_images"], finish["seconds"]
    rates = {"extract": n_images / seconds, "command": n_images / command}
    return rates | {"sizes": sizes, "n_images": n_images, "seconds": seconds, "waits_s": waits}


def write_raw(store: Path, run: dict[str, Any]) -> float:
    """Write as many bytes as a run, in files as large as a block; return images/s."""
    sizes = run["sizes"]
    data, folder = memoryview(np.random.default_rng(0).bytes(max(sizes))), store / "raw"
    folder.mkdir()
    start = time.perf_counter()
    for offset in range(0, sum(sizes), len(data)):
        write_durably(folder / str(offset), data[: sum(sizes) - offset])
    return run["n_images"] / (time.perf_counter() - start)


def extract_and_write(config: ExtractConfig, repeats: int) -> tuple[list[dict[str, Any]], float]:
    """Extract several times, then write the same bytes once; return the runs, and images/s of writing."""
    runs = []
    for _ in range(repeats):
        shutil.rmtree(config.out, ignore_errors=True)
        runs.append(run_extraction(config))
    raw = write_raw(Path(config.out), runs[-1])
    shutil.rmtree(config.out)
    for run in runs:
        run["gb"] = sum(run.pop("sizes")) / 1e9
    return runs, raw


def one_layer(bench: Bench, decode: Literal["exact", "fast"]) -> Found:
    """Extract the last layer twice, against its lowest limit, and the loader against the decoders."""
    config = make_config(bench, "last1", decode, None)
    backbone = load_backbone(config.model, model_arg=config.model_arg, no_pretrained=True)
    forward = bare_forward(bench, backbone)
    found = decoding(bench, config, decoded_as(decode, backbone.transform))
    del backbone
    bench.release()
    runs, raw = extract_and_write(config, 2)
    limits = {"bare forward": 10 * config.batch_size / median(forward), "decoders": found["decoders"]}
    limits["raw write"] = raw
    work, lowest = f"extract one layer, {decode} decoding, per image", min(limits.values())
    row = make_row(f"{work}, against the slowest part", [1 / run["extract"] for run in runs], len(runs) * [1 / lowest])
    loading = make_row(f"{work}: the loader, against the decoders", [1 / found["loader"]], [1 / found["decoders"]])
    figures = {"images_per_s": limits | found, "runs": runs, "ratios": [row, loading], "ten_forwards_s": forward}
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in limits.items())
    waits = ", ".join(f"{name} {seconds:.1f}" for name, seconds in runs[-1]["waits_s"].items())
    behind = f"{median(run['extract'] for run in runs):,.0f} images/s; {rates}; of {runs[-1]['seconds']:.1f} s waited: "
    loader = f"{found['loader']:,.0f} / {found['decoders']:,.0f} images/s"
    return figures, [
        (f"{decode}: one layer extracted / lowest limit", f"{row['ratio']['median']:.2f}", "≥ 0.9", behind + waits),
        (f"{decode}: loader / decoders", f"{found['loader'] / found['decoders']:.2f}", "≥ 0.9", loader),
    ]


def all_layers(bench: Bench) -> Found:
    (run,), raw = extract_and_write(make_config(bench, "all", "fast", bench.sizes.all_layers_images), 1)
    row = make_row("extract all layers, per image, against a raw durable write", [1 / run["extract"]], [1 / raw])
    behind = f"{run['extract']:,.0f} / {raw:,.0f} images/s, {run['gb']:.1f} GB"
    line = ("all layers extracted / raw durable write", f"{row['ratio']['median']:.2f}", "", behind)
    return {**run, "ratios": [row]}, [line]
