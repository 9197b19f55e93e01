"""Extraction against the bare forward: how much of the backbone's speed reaches the disk, and in how much memory.

    python benchmarks/extract.py [-m MODEL] [-d DATA] [--checkpoint FILE] [--model-arg K=V] [--repeats 3]

Each repeat times the forward pass of the same images in the same batches, from memory, then a whole
extraction, both in one process; the medians and their ratio are printed and kept as JSON.
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tokenprobe.cli import read_pairs
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import BACKBONES, Backbone, BackboneRequest, split_source
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.workflows.demo import ARCHITECTURE, WEIGHTS

ASSETS = Path(__file__).parents[1] / "assets"


def load(config: ExtractConfig) -> Backbone:
    source, name = split_source(config.model)
    checkpoint = None if config.checkpoint is None else Path(config.checkpoint)
    return BACKBONES[source](BackboneRequest(name, config.model_arg, checkpoint, not config.no_pretrained, 0))


def bare_forward(config: ExtractConfig, backbone: Backbone, device: torch.device) -> float:
    """Return images/s of `forward_features` alone on the images that an extraction sees."""
    source, to_pixels = open_dataset(config.data), Pixels(backbone.transform)
    n_images = {split: len(source.images(split).ids) for split in source.splits}
    n_images = {split: min(n, config.limit or n) for split, n in n_images.items()}
    pixels = torch.stack([to_pixels(source.load(split, i)) for split, n in n_images.items() for i in range(n)])
    model: Any = backbone.module.to(device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        start = time.perf_counter()
        for batch in pixels.split(config.batch_size):
            out = model.forward_features(normalise(batch.to(device), backbone.transform))
        float(out.sum())
    return len(pixels) / (time.perf_counter() - start)


def whole_extraction(config: ExtractConfig) -> float:
    """Return images/s of the loop of an extraction, as its journal has it."""
    extract(config)
    journal = (Path(config.out) / "journal.jsonl").read_text().splitlines()
    finish = next(entry for entry in map(json.loads, journal) if entry.get("event") == "finish")
    return float(finish["n_images"] / finish["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="timm:VisionTransformer")
    parser.add_argument("-d", "--data", default="demo")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--model-arg", type=read_pairs, default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default=None, help="file for the figures")
    arguments = parser.parse_args()
    demo = arguments.model == "timm:VisionTransformer" and arguments.checkpoint is None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bare, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            config = ExtractConfig(
                model=arguments.model,
                data=arguments.data,
                out=Path(folder) / f"{repeat}.zarr",
                checkpoint=ASSETS / WEIGHTS if demo else arguments.checkpoint,
                model_arg=ARCHITECTURE if demo else arguments.model_arg or {},
                limit=arguments.limit,
                workers=arguments.workers,
            )
            bare.append(bare_forward(config, load(config), device))
            whole.append(whole_extraction(config))
    figures = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "model": arguments.model,
        "data": arguments.data,
        "bare_images_per_s": round(statistics.median(bare), 1),
        "extract_images_per_s": round(statistics.median(whole), 1),
        "extract_of_bare": round(statistics.median(w / b for w, b in zip(whole, bare, strict=True)), 3),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
