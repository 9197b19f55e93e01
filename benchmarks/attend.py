"""Fused attention against torch's own operations, on a CUDA device.

    python benchmarks/attend.py [--parts check attend heads tiles] [--seconds 85] [--images 1024] [--json FILE]

check: the error of both against float64, relative to the norm. attend: milliseconds of the forward pass and of forward
plus backward, and the peak memory of the latter without its inputs, for X queries per image and N tokens 768 wide.
heads: the same for whole poolings with H stacked cells, under bfloat16 autocast. tiles: each kernel with tiles other
than its own choice. Times are medians by the device's clock. A failed measurement prints its error. After `--seconds`
no measurement starts.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from rows import Row, describe_run, make_parser, make_row, write_lines  # the file beside this one
from torch import Tensor

from tokenprobe.probe.heads import build_pooling, fused
from tokenprobe.probe.heads.folded import attend, attend_unfused, token_rstd

DIM = 768
Tasks = Iterator[tuple[str, Callable[[], None]]]
BF16, FP16 = torch.bfloat16, torch.float16


@dataclass(frozen=True)
class Case:
    """Attention of X queries over N tokens. Queries may be `shared` by all images, and tokens `normed`."""

    n_queries: int
    n_tokens: int = 196
    shared: bool = True
    normed: bool = False
    dtype: torch.dtype = BF16

    def __str__(self) -> str:
        words = [f"X={self.n_queries:<5} N={self.n_tokens:<5}", str(self.dtype).removeprefix("torch.")]
        return " ".join([*words, *["per image"] * (not self.shared), *["normed"] * self.normed])

    def inputs(self, n_images: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return tokens, queries (B or 1, 1, X, D), and the tokens' rstd or None."""
        generator = torch.Generator("cuda").manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, device="cuda", dtype=self.dtype, generator=generator)

        x_BND = draw(n_images, self.n_tokens, DIM)
        u_BHMD = draw(1 if self.shared else n_images, 1, self.n_queries, DIM) * DIM**-0.5
        return x_BND, u_BHMD.float().requires_grad_(), token_rstd(x_BND, 1e-6) if self.normed else None

    def autocast(self) -> torch.autocast:
        """Return the autocast context of training in the case's type; queries are float32 parameters."""
        return torch.autocast("cuda", self.dtype)


CASES = [
    Case(32), Case(256), Case(2048), Case(8192), Case(256, normed=True), Case(256, dtype=FP16), Case(256, 49),
    Case(256, 261), Case(256, 512), Case(8, shared=False, normed=True),
    Case(196, shared=False), Case(1568, shared=False),
]  # fmt: skip
CHECKS = [
    Case(32), Case(70, normed=True), Case(40, shared=False), Case(40, dtype=FP16),
    Case(40, 49), Case(40, 7), Case(40, 261), Case(40, 512), Case(5, shared=False, normed=True),
]  # fmt: skip
HEADS = [
    ("ep", 1), ("ep", 8), ("ep", 64), ("aim", 8), ("cae", 8), ("coca", 8), ("siglip", 8), ("jepa", 8), ("simpool", 8),
    ("cait", 8), ("abmilp", 1), ("abmilp", 8),
]  # fmt: skip
FORWARD_TILES = {
    Case(2048): [(128, 32, 4, 4), (128, 64, 4, 2), (128, 64, 8, 3), (64, 64, 4, 3), (64, 32, 4, 4)],
    Case(32): [(32, 64, 4, 3), (32, 32, 4, 4), (64, 64, 4, 3), (64, 32, 4, 4)],
    Case(256, normed=True): [(128, 64, 8, 3), (128, 32, 4, 4), (64, 64, 4, 3)],
}
BACKWARD_TILES = {
    Case(2048): [(128, 64, 8, 3), (64, 32, 4, 4), (64, 64, 4, 2), (64, 64, 8, 3)],
    Case(32): [(32, 64, 4, 3), (32, 32, 4, 4), (32, 64, 8, 3), (64, 32, 4, 4), (64, 64, 8, 3)],
    Case(256, normed=True): [(64, 64, 8, 3), (128, 64, 8, 3), (64, 32, 4, 3)],
}
"""Queries per tile, channels per slice, warps, stages."""


@dataclass(frozen=True)
class Measured:
    """Milliseconds of the forward pass and of forward plus backward, one per repeat, and bytes of the latter's peak."""

    forward: list[float]
    both: list[float]
    peak: int

    def __str__(self) -> str:
        return f"{median(self.forward):8.3f} {median(self.both):8.3f} {self.peak / 2**30:6.2f}"


class Bench:
    """The number of images, the time after which no measurement starts, and the ratios found."""

    def __init__(self, n_images: int, seconds: float, repeats: int) -> None:
        self.n_images, self.repeats, self.end = n_images, repeats, time.monotonic() + seconds
        self.rows = list[Row]()

    def keep(self, name: str, unfused: Measured, fused: Measured) -> None:
        """Keep the ratios of a fused and an unfused measurement."""
        for work in ("forward", "both"):
            ours, theirs = ([each / 1e3 for each in getattr(side, work)] for side in (fused, unfused))
            n = min(len(ours), len(theirs))
            words = "forward" if work == "forward" else "forward and backward"
            self.rows.append(make_row(f"{name}, {words}, against torch's operations", ours[:n], theirs[:n]))
        row = make_row(f"{name}, peak memory, against torch's operations", [fused.peak], [unfused.peak], "bytes")
        self.rows.append(row)

    @contextmanager
    def line(self, name: str) -> Iterator[None]:
        """Print a line: the name, then the output of the body, or its error."""
        print(f"{name:<38}", end=" ", flush=True)
        try:
            if time.monotonic() > self.end:
                raise TimeoutError("no time left")
            yield
        except Exception as error:
            print(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}", end="")
        print(flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def milliseconds(step: Callable[[], Any], repeats: int) -> list[float]:
    """Return the times of a step, fewer than asked for if it is long."""
    step()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    times: list[float] = []
    while len(times) <= repeats and (len(times) < 4 or sum(times) < 300):
        events[0].record()
        step()
        events[1].record()
        events[1].synchronize()
        times.append(events[0].elapsed_time(events[1]))
    return times[1:]


def measure(forward: Callable[[], Tensor], repeats: int) -> Measured:
    """Measure the forward pass, and forward plus backward."""

    def inference() -> None:
        with torch.inference_mode():
            forward()

    def train() -> None:
        forward().backward(cotangent)

    alone = milliseconds(inference, repeats)
    cotangent = torch.randn_like(forward().detach())
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    both = milliseconds(train, repeats)
    return Measured(alone, both, torch.cuda.max_memory_allocated() - before)


def check(case: Case) -> None:
    """Print the errors of z and of the gradient, unfused and fused."""
    x_BND, u_BHMD, rstd_BN = case.inputs(16)
    exact_u = u_BHMD.detach().double().requires_grad_()
    exact = attend_unfused(x_BND.double(), exact_u, None if rstd_BN is None else token_rstd(x_BND.double(), 1e-6))
    cotangent = torch.randn_like(exact)
    exact.backward(cotangent)
    for function in (attend_unfused, attend):
        u_BHMD.grad = None
        with case.autocast():
            z = function(x_BND, u_BHMD, rstd_BN)
        z.backward(cotangent.to(z.dtype))
        assert u_BHMD.grad is not None
        assert exact_u.grad is not None
        errors = [(z - exact).norm() / exact.norm(), (u_BHMD.grad - exact_u.grad).norm() / exact_u.grad.norm()]
        print(" ".join(f"{float(error.detach()):8.1e}" for error in errors), end="   ")


def compare(bench: Bench, case: Case) -> None:
    """Print the times and memory of attention, unfused and fused."""
    inputs = case.inputs(bench.n_images)

    def forward(function: Callable[..., Tensor]) -> Tensor:
        with case.autocast():
            return function(*inputs)

    found = []
    for function in (attend_unfused, attend):
        try:
            found.append(measure(partial(forward, function), bench.repeats))
            print(found[-1], end="   ")
        except torch.cuda.OutOfMemoryError:
            print("out of memory", end="   ")
        inputs[1].grad = None
    if len(found) == 2:
        bench.keep(f"attention {' '.join(str(case).split())}", *found)


def compare_heads(bench: Bench, name: str, n_cells: int) -> None:
    """Print the times and memory of a pooling, unfused and fused."""
    torch.manual_seed(0)
    pool = build_pooling(name, dim=DIM, grid=(14, 14), cells=n_cells).cuda()
    x_BND = torch.randn(bench.n_images, 196, DIM, dtype=BF16, device="cuda")

    def forward() -> Tensor:
        with torch.autocast("cuda", BF16):
            return pool(x_BND)

    can_fuse, found = fused.can_fuse, []
    for choose in (lambda *_: False, can_fuse):
        fused.can_fuse = choose
        try:
            found.append(measure(forward, bench.repeats))
            print(found[-1], end="   ")
        except torch.cuda.OutOfMemoryError:
            print("out of memory", end="   ")
        finally:
            fused.can_fuse = can_fuse
        pool.zero_grad()
    if len(found) == 2:
        bench.keep(f"{name} × {n_cells}", *found)


def time_tiles(bench: Bench, case: Case, tiles: tuple[int, int, int, int], direction: str) -> None:
    """Print the time of a kernel, and the rate of its matrix products, without padding."""
    from tokenprobe.probe.heads.fused_launch import Attention, Tiles, divide_tokens

    queries, width, warps, stages = tiles
    chosen = Tiles(queries, divide_tokens(case.n_tokens), width, warps, stages)
    x_BND, u_BHMD, rstd_BN = case.inputs(bench.n_images)
    mean_BN = None if rstd_BN is None else x_BND.mean(-1, dtype=torch.float32)
    u_GXD = u_BHMD.detach()[:, 0].to(case.dtype)
    attention = Attention(x_BND, u_GXD, rstd_BN, mean_BN)
    z_BXD, lse_BX = torch.ops.tokenprobe.attend(x_BND, u_GXD, rstd_BN, mean_BN)
    if direction == "backward":
        ds_BXN = torch.ops.tokenprobe.attend_scores_backward(x_BND, u_GXD, rstd_BN, mean_BN, lse_BX, z_BXD, None)
        step = partial(attention.backward, lse_BX, z_BXD, None, ds_BXN, chosen)
    else:
        step = partial(attention.forward, z_BXD, lse_BX, chosen)
    spent = median(milliseconds(step, bench.repeats))
    flop = 4 * bench.n_images * case.n_queries * case.n_tokens * DIM
    print(f"{spent:8.3f} ms {flop / spent / 1e9:6.0f} TFLOP/s", end="")


def checks(bench: Bench) -> Tasks:
    print("\nerror against float64: unfused z, du   fused z, du")
    return ((str(case), partial(check, case)) for case in CHECKS)


def comparisons(bench: Bench) -> Tasks:
    print("\nunfused forward ms, with backward ms, GiB   fused likewise")
    return ((str(case), partial(compare, bench, case)) for case in CASES)


def head_comparisons(bench: Bench) -> Tasks:
    print("\nunfused forward ms, with backward ms, GiB   fused likewise")
    return ((f"{name} x {cells}", partial(compare_heads, bench, name, cells)) for name, cells in HEADS)


def tile_times(bench: Bench) -> Tasks:
    print("\nqueries, width, warps, stages")
    for direction, table in (("forward", FORWARD_TILES), ("backward", BACKWARD_TILES)):
        for case, choices in table.items():
            for tiles in choices:
                yield f"{direction} {case} {tiles}", partial(time_tiles, bench, case, tiles, direction)


def main() -> None:
    parser = make_parser(__doc__, repeats=14)
    parser.add_argument("--parts", nargs="+", default=["check", "attend", "heads", "tiles"])
    parser.add_argument("--seconds", type=float, default=85)
    parser.add_argument("--images", type=int, default=1024)
    given = parser.parse_args()
    bench, run = Bench(given.images, given.seconds, given.repeats), describe_run("attend")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton starts: {fused.starts()}")
    tasks = {"check": checks, "attend": comparisons, "heads": head_comparisons, "tiles": tile_times}
    for part in given.parts:
        for name, task in tasks[part](bench):
            with bench.line(name):
                task()
            if given.json:
                write_lines(given.json, [run, *bench.rows])


if __name__ == "__main__":
    main()
