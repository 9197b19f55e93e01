"""The sizes of the measurements in `gpu.py`, and its measuring of time and memory."""

import gc
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rows import take_turns  # the file beside this one

CORES = len(os.sched_getaffinity(0))
Line = tuple[str, str, str, str]
Found = tuple[dict[str, Any], list[Line]]
"""The numbers of a measurement, and its lines in the table: figure, found, wanted, underlying numbers. "ratios" among
the numbers are rows, as `rows.make_row` makes them."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of all measurements.

    Attributes:
        images: number of images in the token store.
        grid: height and width of the grid of tokens.
        dim: width of a token, in float16.
        classes: number of classes.
        queries: number of queries of the EP head.
        batch: images per training step.
        cells: numbers of stacked heads to train: one, many and very many.
        repeats: number of timed steps after the warm-up.
        copied: bytes of the large copy.
        matrix: side of the large matrix product.
        jpegs: number of JPEG files; each has `names` names in the data.
        all_layers_images: images for the extraction of all layers.
        model: backbone, with random weights.
        model_arg: arguments of its constructor.
        forward_batch: images per forward pass of the backbone.
    """

    images: int = 16_384
    grid: tuple[int, int] = (14, 14)
    dim: int = 768
    classes: int = 1000
    queries: int = 32
    batch: int = 1024
    cells: tuple[int, int, int] = (1, 64, 256)
    repeats: int = 5
    copied: int = 2**31
    matrix: int = 8192
    jpegs: int = 4000
    names: int = 5
    all_layers_images: int = 2048
    model: str = "timm:vit_base_patch16_224"
    model_arg: dict[str, Any] = field(default_factory=dict)
    forward_batch: int = 192

    @property
    def n_tokens(self) -> int:
        """Tokens per image."""
        return self.grid[0] * self.grid[1]

    @property
    def image_bytes(self) -> int:
        """Bytes of tokens per image."""
        return 2 * self.n_tokens * self.dim

    @property
    def flop(self) -> int:
        """FLOP per image to train one head: four products with the tokens, three each of value and classifier."""
        return 2 * (4 * self.queries * self.n_tokens * self.dim + 3 * self.dim * (self.dim + self.classes))


TINY = Sizes(
    images=64, grid=(4, 4), dim=32, classes=5, queries=4, batch=16, cells=(1, 4, 8), repeats=2, copied=2**20, matrix=64,
    jpegs=48, names=4, all_layers_images=16, model="timm:VisionTransformer", forward_batch=8,
    model_arg={"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2},
)  # fmt: skip
"""Small sizes that try every path on a CPU."""


class Bench:
    """The device, the sizes, the folders, and the numbers found so far."""

    def __init__(self, device: torch.device, sizes: Sizes, folder: Path, out: Path, test_seconds: float) -> None:
        """Start without measurements; stores and images go to `folder`, results to `out`."""
        self.device, self.sizes, self.folder, self.out, self.test_seconds = device, sizes, folder, out, test_seconds
        self.on_gpu = device.type == "cuda"
        self.figures: dict[str, dict[str, Any]] = {}

    @cached_property
    def ceilings(self) -> dict[str, Any]:
        """Bytes/s of a large copy (read plus written), and FLOP/s of a large bfloat16 matrix product."""
        source = torch.empty(self.sizes.copied // 4, dtype=torch.int32, device=self.device).random_()
        target, side = torch.empty_like(source), self.sizes.matrix
        factor = torch.randn(side, side, dtype=torch.bfloat16, device=self.device)
        copying, multiplying = self.seconds(
            lambda: [target.copy_(source) for _ in range(10)], lambda: [factor @ factor for _ in range(10)]
        )
        return {
            "copy_bytes_per_s": 2 * source.nbytes * 10 / median(copying),
            "matmul_flop_per_s": 2 * side**3 * 10 / median(multiplying),
            "ten_copies_s": copying,
            "ten_products_s": multiplying,
        }

    def seconds(self, *steps: Callable[[], Any], repeats: int | None = None) -> list[list[float]]:
        """Time steps in turns, including the device's work; return the seconds of each."""

        def clock() -> float:
            self.wait()
            return time.perf_counter()

        calls = {str(index): step for index, step in enumerate(steps)}
        return [*take_turns(calls, repeats or self.sizes.repeats, clock=clock, warm_up=2).values()]

    def found(self, row: str, key: str) -> float:
        """Return a number of an earlier row, or NaN."""
        return float(self.figures.get(row, {}).get(key, "nan"))

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def begin_peak(self) -> int:
        """Reset the peak of the device's memory; return the bytes allocated now."""
        if not self.on_gpu:
            return 0
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def peak(self) -> int:
        """Return the peak of the device's memory in bytes; on a CPU, the peak of the process."""
        if not self.on_gpu:
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.wait()
        return torch.cuda.max_memory_allocated(self.device)

    def release(self) -> None:
        """Free the memory of a finished measurement."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
