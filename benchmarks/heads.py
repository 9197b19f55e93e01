"""Attentive heads, forward and backward, against their published order of operations.

    python benchmarks/heads.py [--images 64] [--repeats 7] [--gpu-images 1024] [--json FILE]

On the CPU, for 196 tokens 768 wide in float32: each folded pooling takes turns with the naive order, which is written
below with the same weights. The naive order computes keys and values of every token, and uses torch's fused attention
if the published code does. Then come sixteen stacked EP heads against sixteen calls of one head, and the peak memory of
an EP step, from the allocator's own record.

On a GPU, if there is one: 1, 8, 64 and 256 stacked EP heads under bfloat16 autocast, against a large copy of as many
bytes and a large matrix product of as many operations, on the same device in the same run.
"""

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from rows import Call, Row, make_parser, make_row, report, take_turns  # the file beside this one
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


def pair(name: str, ours: Call, theirs: Call, repeats: int) -> Row:
    found = take_turns({"theirs": theirs, "ours": ours}, repeats)
    return make_row(name, found["ours"], found["theirs"])


class Sides:
    """A step of a pooling, forward and backward, and the same step in the naive order with the same weights."""

    def __init__(self, name: str, n_images: int) -> None:
        self._pool, self._naive, self._x = build(name), NAIVE[name], torch.randn(n_images, N_TOKENS, DIM)
        self._own = {key: value[0].detach().clone().requires_grad_() for key, value in self._pool.named_parameters()}
        expected, found = self._naive(self._x, self._own), self._pool(self._x)
        assert (found - expected).norm() < 1e-4 * expected.norm(), name
        self._cotangent = torch.randn_like(found)

    def ours(self) -> None:
        """Make a step of the pooling."""
        (self._pool(self._x) * self._cotangent).sum().backward()

    def naive(self) -> None:
        """Make a step in the naive order."""
        (self._naive(self._x, self._own) * self._cotangent).sum().backward()


def stacked_against_single(n_images: int, repeats: int) -> Row:
    """Time sixteen calls of one EP head, and one call of sixteen stacked heads."""
    single, stacked, x = build("ep"), build("ep", STACKED), torch.randn(n_images, N_TOKENS, DIM)

    def one_by_one() -> None:
        for _ in range(STACKED):
            single(x).sum().backward()

    name = f"a step of {STACKED} stacked EP heads, against {STACKED} calls of one"
    return pair(name, lambda: stacked(x).sum().backward(), one_by_one, repeats)


def peak_bytes(step: Call) -> int:
    """Return the peak extra memory of a step."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(sizes))


def on_cpu(n_images: int, repeats: int) -> Iterator[Row]:
    for name in NAIVE:
        sides = Sides(name, n_images)
        yield pair(f"a step of {name}, against the published order", sides.ours, sides.naive, repeats)
    yield stacked_against_single(n_images, repeats)
    sides = Sides("ep", n_images)
    ours, naive = [peak_bytes(sides.ours)], [peak_bytes(sides.naive)]
    yield make_row("peak memory of a step of ep, against the published order", ours, naive, "bytes")


def gpu_seconds(step: Call, repeats: int) -> list[float]:
    """Return the times of a step by the device's own clock."""
    for _ in range(3):
        step()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def on_gpu(n_images: int, repeats: int) -> Iterator[Row]:
    source = torch.empty(2**30, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    factor = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    x = torch.randn(n_images, N_TOKENS, DIM, dtype=torch.bfloat16, device="cuda")
    copying = gpu_seconds(lambda: target.copy_(source), repeats)
    multiplying = gpu_seconds(lambda: factor @ factor, repeats)
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

        share = x.nbytes / (2 * source.nbytes)  # a copy reads and writes
        name = f"GPU: forward of {cells} EP heads, against a copy of as many bytes as tokens"
        yield make_row(name, gpu_seconds(inference, repeats), [each * share for each in copying])
        share = flops.train * cells * n_images / (2 * 8192**3)
        name = f"GPU: a step of {cells} EP heads, against a matrix product of as many operations"
        yield make_row(name, gpu_seconds(training, repeats), [each * share for each in multiplying])
        del pool, forward, inference


def measure(n_images: int, n_gpu_images: int, repeats: int) -> Iterator[Row]:
    yield from on_cpu(n_images, repeats)
    if torch.cuda.is_available():
        yield from on_gpu(n_gpu_images, repeats)


def main() -> None:
    parser = make_parser(__doc__, repeats=7)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--gpu-images", type=int, default=1024)
    given = parser.parse_args()
    report("heads", measure(given.images, given.gpu_images, given.repeats), given.json)


if __name__ == "__main__":
    main()
