"""What `gpu.py` measures of stage one: extraction against its limits."""

import json
import multiprocessing
import os
import shutil
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_bench import CORES, Bench, Row, Sizes, Times
from PIL import Image

# All that this file takes from the package.
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.views import Pixels
from tokenprobe.runtime.device import resolve_precision
from tokenprobe.store.durable import write_durably

FORK = multiprocessing.get_context("fork")
DECODER: dict[str, Pixels] = {}
"""The transform of a decoding process."""


def make_images(folder: Path, sizes: Sizes) -> Path:
    """Make JPEGs of two classes, side by side; once."""
    if not folder.exists():
        paths = [folder / "train" / str(index % 2) / f"{index:06d}.jpg" for index in range(sizes.jpegs)]
        for path in paths[:2]:
            path.parent.mkdir(parents=True)
        with FORK.Pool(CORES) as pool:
            pool.map(partial(make_jpeg, n_names=sizes.names), paths)
    return folder


def make_jpeg(path: Path, n_names: int) -> None:
    """Write blurred noise of 500 × 375, some 95 kB, under several names."""
    noise = np.random.default_rng(int(path.stem)).integers(0, 256, (125, 167, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=85)
    for index in range(1, n_names):
        os.link(path, path.with_stem(f"{path.stem}_{index}"))


def make_config(bench: Bench, layers: str, limit: int | None) -> ExtractConfig:
    return ExtractConfig(
        model=bench.sizes.model,
        model_arg=bench.sizes.model_arg,
        no_pretrained=True,
        data=f"folder:{make_images(bench.folder / 'images', bench.sizes)}",
        out=bench.folder / "extracted.zarr",
        layers=layers,
        limit=limit,
        batch_size=bench.sizes.forward_batch,
        device=str(bench.device),
    )


def bare_forward(bench: Bench, backbone: Any) -> Times:
    """Time ten forward passes of the backbone alone, on noise that is on the device."""
    module, enabled = backbone.module.to(bench.device), resolve_precision("auto", bench.device) != "float32"
    images = torch.randn(bench.sizes.forward_batch, 3, *backbone.transform.input_size, device=bench.device)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(bench.device.type, torch.bfloat16, enabled=enabled):
            for _ in range(10):
                module.forward_features(images)

    return bench.seconds(forward)[0]


def start_decoder(transform: Any) -> None:
    torch.set_num_threads(1)
    DECODER["pixels"] = Pixels(transform)


def decode(path: Path) -> None:
    DECODER["pixels"](Image.open(path))


def decoders_alone(folder: Path, transform: Any) -> float:
    """Return images/s of as many processes as there are cores, which decode, transform and hand nothing over."""
    paths = sorted((folder / "train").rglob("*.jpg"))
    with FORK.Pool(CORES, start_decoder, (transform,)) as pool:
        pool.map(decode, paths[: 8 * CORES], 1)
        start = time.perf_counter()
        pool.map(decode, paths, 16)
        return len(paths) / (time.perf_counter() - start)


def extract_and_write(config: ExtractConfig) -> dict[str, float]:
    """Extract, then write the same bytes raw, in files as large as a block; return images/s of both."""
    start = time.perf_counter()
    store = extract(config)
    command = time.perf_counter() - start
    events = [json.loads(line) for line in (store / "journal.jsonl").read_text().splitlines()]
    finish = next(event for event in events if event.get("event") == "finish")
    sizes = [file.stat().st_size for file in store.rglob("*") if file.is_file()]
    data, folder = memoryview(np.random.default_rng(0).bytes(max(sizes))), store / "raw"
    folder.mkdir()
    start = time.perf_counter()
    for offset in range(0, sum(sizes), len(data)):
        write_durably(folder / str(offset), data[: sum(sizes) - offset])
    raw = time.perf_counter() - start
    shutil.rmtree(store)
    n_images = finish["n_images"]
    rates = {"extract": n_images / finish["seconds"], "raw_write": n_images / raw, "command": n_images / command}
    return rates | {"gb": sum(sizes) / 1e9, "n_images": n_images, "waited_s": finish["seconds_waited_for_images"]}


def one_layer(bench: Bench) -> Row:
    """Extract the last layer, twice, against the least of its limits."""
    config = make_config(bench, "last1", None)
    backbone = load_backbone(config.model, model_arg=config.model_arg, no_pretrained=True)
    forward = bare_forward(bench, backbone)
    limits = {
        "bare forward": 10 * config.batch_size / forward["median"],
        "decoders": decoders_alone(bench.folder / "images", backbone.transform),
    }
    del backbone
    runs = [extract_and_write(config) for _ in range(2)]
    limits["raw write"] = median(run["raw_write"] for run in runs)
    ratios = [run["extract"] / min(limits.values()) for run in runs]
    figures = {"images_per_s": limits, "runs": runs, "of_limit": ratios, "ten_forwards_s": forward}
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in limits.items())
    behind = f"{median(run['extract'] for run in runs):,.0f} images/s; {rates}"
    return figures, [("one layer extracted, of the least limit", f"{median(ratios):.2f}", "≥ 0.9", behind)]


def all_layers(bench: Bench) -> Row:
    run = extract_and_write(make_config(bench, "all", bench.sizes.all_layers_images))
    ratio = run["extract"] / run["raw_write"]
    behind = f"{run['extract']:,.0f} / {run['raw_write']:,.0f} images/s, {run['gb']:.1f} GB"
    return {**run, "of_raw_write": ratio}, [("all layers extracted / raw durable write", f"{ratio:.2f}", "", behind)]
