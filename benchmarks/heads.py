"""Attentive heads, forward and backward, against their published order of operations.

    python benchmarks/heads.py [--images 64] [--repeats 7] [--gpu-images 1024] [--json FILE]

On the CPU, for 196 tokens 768 wide in float32: each folded pooling takes turns with the naive order, which is written
below with the same weights. The naive order computes keys and values of every token, and uses torch's fused attention
if the published code does. Taking turns spreads the noise of a shared machine over both. Medians of the ratios are
printed. Then come sixteen stacked EP heads against sixteen calls of one head, and the peak memory of a stacked EP step,
from the allocator's own record.

On a GPU, if there is one: 1, 8, 64 and 256 stacked EP heads under bfloat16 autocast, in milliseconds, and compared with
a large copy and a large matrix product on the same device in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprobe.probe.heads import build_pooling
from tokenprobe.probe.heads.flops import count_flops

GRID, DIM = (14, 14), 768
N_TOKENS = GRID[0] * GRID[1]
STACKED = 16
P = dict[str, Tensor]


def split_heads(t: Tensor, heads: int) -> Tensor:
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, N, width)


def cross_attend(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attend with (B, Q, D) queries over (B, N, D); return (B, Q, D)."""
    q, k, v = (split_heads(t, heads) for t in (query, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def dense(t: Tensor, p: P, name: str) -> Tensor:
    return F.linear(t, p[f"{name}_weight"], p.get(f"{name}_bias"))


def norm(t: Tensor, p: P, name: str, eps: float) -> Tensor:
    return F.layer_norm(t, (DIM,), p[f"{name}_weight"], p[f"{name}_bias"], eps)


def mlp(t: Tensor, p: P) -> Tensor:
    return dense(F.gelu(dense(t, p, "fc1")), p, "fc2")


def ep(x: Tensor, p: P) -> Tensor:
    maps = (p["queries"] * DIM**-0.5 @ x.transpose(1, 2)).softmax(-1)
    values = split_heads(F.linear(x, p["value"]), len(p["queries"]))
    return (maps[:, :, None] @ values)[:, :, 0].flatten(1)


def aim(x: Tensor, p: P) -> Tensor:
    normed = F.batch_norm(x.transpose(1, 2), None, None, training=True, eps=1e-6).transpose(1, 2)
    query = p["query"].expand(len(x), -1, -1)
    return cross_attend(query, F.linear(normed, p["key"]), F.linear(normed, p["value"]), 16)[:, 0]


def clip(x: Tensor, p: P) -> Tensor:
    normed = norm(x, p, "norm", 1e-6)
    t = torch.cat([normed.mean(1, keepdim=True), normed], dim=1) + p["position"]
    query, keys, values = dense(t, p, "qkv").chunk(3, dim=2)
    return dense(cross_attend(query, keys, values, 4), p, "proj")[:, 0]


def siglip(x: Tensor, p: P) -> Tensor:
    keys, values = dense(x, p, "kv").chunk(2, dim=2)
    o = dense(cross_attend(dense(p["latent"].expand(len(x), -1, -1), p, "q"), keys, values, 8), p, "proj")
    return (o + mlp(o, p))[:, 0]


def cait(x: Tensor, p: P) -> Tensor:
    c = p["query"].expand(len(x), -1, -1)
    t = norm(torch.cat([c, x], dim=1), p, "norm1", 1e-6)
    o = cross_attend(dense(t[:, :1], p, "q"), dense(t, p, "k"), dense(t, p, "v"), 4)
    c = c + p["scale1"] * dense(o, p, "proj")
    c = c + p["scale2"] * mlp(norm(c, p, "norm2", 1e-6), p)
    return norm(c, p, "norm", 1e-5)[:, 0]


def jepa(x: Tensor, p: P) -> Tensor:
    query = p["query"].expand(len(x), -1, -1)
    keys, values = dense(norm(x, p, "norm1", 1e-5), p, "kv").chunk(2, dim=2)
    y = query + dense(cross_attend(dense(query, p, "q"), keys, values, 16), p, "proj")
    return (y + mlp(norm(y, p, "norm2", 1e-5), p))[:, 0]


def cae(x: Tensor, p: P) -> Tensor:
    query = dense(norm(p["query"].expand(len(x), -1, -1), p, "norm_q", 1e-5), p, "q")
    keys, values = (dense(norm(x, p, f"norm_{name}", 1e-5), p, name) for name in "kv")
    return dense(cross_attend(query, keys, values, 8), p, "proj")[:, 0]


def coca(x: Tensor, p: P) -> Tensor:
    queries = dense(F.layer_norm(p["query_bank"], (DIM,), p["norm_weight"]), p, "q").expand(len(x), -1, -1)
    keys, values = dense(x, p, "kv")[:, None].chunk(2, dim=3)
    maps = (split_heads(queries, 8) @ keys.transpose(2, 3) / 8).softmax(-1)
    return dense((maps @ values).transpose(1, 2).flatten(2), p, "proj")[:, 0]


def simpool(x: Tensor, p: P) -> Tensor:
    normed = norm(x, p, "norm", 1e-6)
    query, keys = dense(x.mean(1, keepdim=True), p, "q"), dense(normed, p, "k")
    return ((query @ keys.transpose(1, 2) * DIM**-0.5).softmax(-1) @ normed)[:, 0]


NAIVE: dict[str, Callable[[Tensor, P], Tensor]] = {
    f.__name__: f for f in (ep, aim, clip, siglip, cait, jepa, cae, coca, simpool)
}


def build(name: str, cells: int | None = None) -> Any:
    torch.manual_seed(0)
    return build_pooling(name, dim=DIM, grid=GRID, cells=cells)


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def paired(first: Callable[[], None], second: Callable[[], None], repeats: int) -> dict[str, float]:
    """Time two steps in turn; return medians, and the median of the ratio first / second."""
    first()
    second()
    pairs = [(timed(first), timed(second)) for _ in range(repeats)]
    return {
        "naive_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def against_naive(name: str, n_images: int, repeats: int) -> dict[str, float]:
    pool, x = build(name), torch.randn(n_images, N_TOKENS, DIM)
    own = {key: value[0].detach().clone().requires_grad_() for key, value in pool.named_parameters()}
    expected, found = NAIVE[name](x, own), pool(x)
    assert (found - expected).norm() < 1e-4 * expected.norm(), name
    cotangent = torch.randn_like(found)
    return paired(
        lambda: (NAIVE[name](x, own) * cotangent).sum().backward(),
        lambda: (pool(x) * cotangent).sum().backward(),
        repeats,
    )


def stacked_against_single(n_images: int, repeats: int) -> dict[str, float]:
    """Time sixteen calls of one EP head ("naive"), and one call of sixteen stacked heads."""
    single, stacked, x = build("ep"), build("ep", STACKED), torch.randn(n_images, N_TOKENS, DIM)

    def one_by_one() -> None:
        for _ in range(STACKED):
            single(x).sum().backward()

    return paired(one_by_one, lambda: stacked(x).sum().backward(), repeats)


def peak_of_step(cells: int, n_images: int) -> float:
    """Return the peak extra memory of a step, in units of its attention maps plus aggregated tokens A·X."""
    pool, x = build("ep", cells), torch.randn(n_images, N_TOKENS, DIM)
    pool(x).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        pool(x).sum().backward()
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(sizes)) / (4 * n_images * cells * 32 * (N_TOKENS + DIM))


def on_cpu(n_images: int, repeats: int) -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "n_images": n_images,
        "against_naive": {name: against_naive(name, n_images, repeats) for name in NAIVE},
        "sixteen_stacked": stacked_against_single(n_images, 3),
        "peak_over_maps_and_aggregates": {cells: peak_of_step(cells, n_images) for cells in (1, 8, STACKED)},
    }


def gpu_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a step by the device's own clock."""
    for _ in range(3):
        step()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def ceilings() -> dict[str, float]:
    """Return bytes/s of a large copy (read plus written) and FLOP/s of a large bfloat16 matrix product."""
    source = torch.empty(2**30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    factor = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    return {
        "copy_bytes_per_s": 2 * source.nbytes / gpu_seconds(lambda: target.copy_(source), 20),
        "matmul_flop_per_s": 2 * 8192**3 / gpu_seconds(lambda: factor @ factor, 20),
    }


def on_gpu(n_images: int, repeats: int) -> dict[str, Any]:
    ceiling = ceilings()
    x = torch.randn(n_images, N_TOKENS, DIM, dtype=torch.bfloat16, device="cuda")
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "n_images": n_images, "ceilings": ceiling}
    with torch.device("meta"):
        flops = count_flops(build("ep"), N_TOKENS, DIM)
    for cells in (1, 8, 64, 256):
        pool = build("ep", cells).cuda()

        def forward(pool: Any = pool) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return pool(x)

        def inference(forward: Callable[[], Tensor] = forward) -> None:
            with torch.inference_mode():
                forward()

        def training(forward: Callable[[], Tensor] = forward) -> None:
            forward().sum().backward()

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds, both_seconds = (
            gpu_seconds(inference, repeats),
            gpu_seconds(training, repeats),
        )
        figures[f"ep x {cells}"] = {
            "forward_ms": 1e3 * seconds,
            "forward_of_copy": x.nbytes / seconds / ceiling["copy_bytes_per_s"],
            "train_ms": 1e3 * both_seconds,
            "train_of_matmul": flops.train * cells * n_images / both_seconds / ceiling["matmul_flop_per_s"],
            "train_gflop": flops.train * cells * n_images / 1e9,
            "peak_gib": (torch.cuda.max_memory_allocated() - before) / 2**30,
        }
        del pool, forward, inference
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gpu-images", type=int, default=1024)
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"cpu": on_cpu(arguments.images, arguments.repeats)}
    figures["gpu"] = on_gpu(arguments.gpu_images, arguments.repeats) if torch.cuda.is_available() else None
    print(json.dumps(figures, indent=1))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
