"""Extraction against its limits: the bare forward of the same model, and a raw durable write of the same bytes.

    python benchmarks/extract.py [-m MODEL] [-d DATA] [--layers all,last1] [--pretrained] [--amp auto] [--repeats 5]
    python benchmarks/extract.py -d demo    # the bundled images and weights

By default ViT-S/16 with random weights reads 256 generated JPEGs of 500 × 375 pixels. With a slower model, the forward
pass is the limit on a CPU: -m timm:vit_base_patch16_224 --images 192 --batch-size 24 --repeats 3. On a GPU:
-m timm:vit_base_patch16_224 --amp bfloat16 --images 8192 --batch-size 256.

For each choice of layers, each repeat takes three measurements in turn, in one process: the forward pass of the same
batches, normalised beforehand; a whole extraction, up to the last durable byte; and a raw write of the same bytes. The
raw write uses files of the size of a block, each with a temporary name, fsynced and renamed. Costs are seconds per
image. The slower of the two limits bounds the extraction.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rows import Row, make_parser, make_row, report  # the files beside this one
from stand_ins import DEMO

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import Backbone, load_backbone
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.rows import even_batch_size
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.runtime.device import resolve_device, resolve_precision
from tokenprobe.runtime.values import read_pairs
from tokenprobe.store.durable import write_durably
from tokenprobe.store.journal import finished_files, read_entries


def make_images(folder: Path, n_images: int) -> str:
    """Write JPEGs of blurred noise, about 60 kB each; return the spec of the data."""
    rng = np.random.default_rng(0)
    for index in range(n_images):
        noise = Image.fromarray(rng.integers(0, 256, (94, 125, 3), dtype=np.uint8))
        path = folder / "train" / str(index % 2) / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return f"folder:{folder}"


def load(config: ExtractConfig) -> Backbone:
    return load_backbone(
        config.model,
        model_arg=config.model_arg,
        checkpoint=config.checkpoint,
        no_pretrained=config.no_pretrained,
    )


class BareForward:
    """`forward_features` alone, on an extraction's images, normalised beforehand and already on the device."""

    def __init__(self, config: ExtractConfig) -> None:
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.amp, self.device)
        backbone, source = load(config), open_dataset(config.data)
        to_pixels = Pixels(backbone.transform)
        self._model: Any = backbone.module.to(self.device)
        self._batches = []
        for split in source.splits:
            n = min(config.limit or 10**9, len(source.images(split).ids))
            size = even_batch_size(max(1, n // 8), config.batch_size)
            pixels = torch.stack([to_pixels(source.load(split, i)) for i in range(n)])
            self._batches += [normalise(batch.to(self.device), backbone.transform) for batch in pixels.split(size)]

    def seconds(self) -> float:
        """Run all batches, after one warm-up batch; return seconds per image."""
        enabled = self.precision != "float32"
        dtype = getattr(torch, self.precision) if enabled else None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=enabled):
            float(self._model.forward_features(self._batches[0]).sum())
            start = time.perf_counter()
            for batch in self._batches:
                out = self._model.forward_features(batch)
            float(out.sum())  # waits for the device
        return (time.perf_counter() - start) / sum(map(len, self._batches))


def raw_write(n_bytes: int, size: int, folder: Path) -> float:
    """Write `n_bytes` bytes to files of `size` bytes, each made durable; return the seconds taken."""
    data = memoryview(np.random.default_rng(0).bytes(size))
    folder.mkdir()
    start = time.perf_counter()
    for offset in range(0, n_bytes, size):
        write_durably(folder / str(offset), data[: min(size, n_bytes - offset)])
    return time.perf_counter() - start


def extract_and_write(config: ExtractConfig) -> dict[str, float]:
    """Extract once, then write the same bytes raw, in files as large as a block; return seconds per image of both."""
    extract(config)
    store = Path(config.out)
    finish = next(entry for entry in read_entries(store) if entry.get("event") == "finish")
    sizes = [record.size for record in finished_files(store).values()]
    raw = raw_write(sum(sizes), max(sizes), store / "raw")
    shutil.rmtree(store)
    return {"extract": finish["seconds"] / finish["n_images"], "raw write": raw / finish["n_images"]}


def make_configs(given: argparse.Namespace, folder: Path) -> list[ExtractConfig]:
    """Return the settings of an extraction per choice of layers."""
    if given.data == "demo":
        what = DEMO
    else:
        data = given.data or make_images(folder / "images", given.images)
        drawn = not (given.pretrained or given.checkpoint)
        what = {"model": given.model, "model_arg": given.model_arg or {}, "data": data, "no_pretrained": drawn}
        what["checkpoint"] = given.checkpoint
    fields = ("limit", "batch_size", "workers", "device", "amp")
    shared = what | {name: getattr(given, name) for name in fields}
    return [ExtractConfig(out=folder / "a.zarr", layers=layers, **shared) for layers in given.layers]


def measure(given: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        configs = make_configs(given, Path(name))
        forward = BareForward(configs[0])
        found: dict[str, list[dict[str, float]]] = {config.layers: [] for config in configs}
        for _ in range(given.repeats):
            for config in configs:
                found[config.layers].append({"the bare forward": forward.seconds(), **extract_and_write(config)})
    model = configs[0].model.partition(":")[2]
    for layers, runs in found.items():
        work, ours = f"extract {model}, layers {layers}, per image", [run["extract"] for run in runs]
        for limit, key in (("the bare forward", "the bare forward"), ("a raw durable write", "raw write")):
            yield make_row(f"{work}, against {limit}", ours, [run[key] for run in runs])
        slower = [max(run["the bare forward"], run["raw write"]) for run in runs]
        yield make_row(f"{work}, against the slower of both", ours, slower)


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("-m", "--model", default="timm:vit_small_patch16_224")
    parser.add_argument("-d", "--data", default=None, help="default: generated images")
    parser.add_argument("--images", type=int, default=256, help="number of generated images")
    parser.add_argument("--layers", nargs="+", default=["all", "last1"])
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--pretrained", action="store_true", help="the published weights instead of random ones")
    parser.add_argument("--model-arg", type=read_pairs, default=None)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--folder", default=None, help="on the disk to write to")
    given = parser.parse_args()
    report("extract", measure(given), given.json)


if __name__ == "__main__":
    main()
