"""Formulas of the poolings, written naively: each token projected, each head in turn.

A formula takes the tokens of a batch, one cell's parameters by name, all settings of the pooling, and the running
statistics, or None in training. It returns the output (B, O) and the attention maps (B, M, N), or None for the maps
where a pooling has no attention. One under `of_image` is written for one image, whose tokens are (N, D), and has no
statistics.
"""

from collections.abc import Callable, Mapping
from math import exp, log, sqrt
from typing import Any

import torch
from torch import Tensor

P = dict[str, Tensor]
Settings = Mapping[str, Any]
Pooled = tuple[Tensor, Tensor | None]
Formula = Callable[[Tensor, P, Settings, P | None], Pooled]
GRID, DIM = (3, 2), 24
"""Of the tokens that the formulas are for."""


FORMULAS: dict[str, Formula] = {}
"""By the name of the head, which is that of the function."""


def of_batch(formula: Formula) -> Formula:
    """Register a formula that has statistics over the batch."""
    FORMULAS[formula.__name__] = formula
    return formula


def of_image(formula: Callable[[Tensor, P, Settings], Pooled]) -> Formula:
    """Register a formula for one image."""

    def lifted(x: Tensor, p: P, settings: Settings, statistics: P | None) -> Pooled:
        outputs, maps = zip(*(formula(tokens, p, settings) for tokens in x), strict=True)
        return torch.stack(outputs), None if maps[0] is None else torch.stack(maps)

    FORMULAS[formula.__name__] = lifted
    return lifted


def softmax(scores: Tensor) -> Tensor:
    powers = torch.exp(scores)
    return powers / powers.sum()


def norm(t: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    rows = []
    for row in t:
        variance = ((row - row.mean()) ** 2).mean()
        rows.append((row - row.mean()) / torch.sqrt(variance + eps) * weight + bias)
    return torch.stack(rows)


def dense(t: Tensor, p: P, name: str) -> Tensor:
    rows = [p[f"{name}_weight"] @ row for row in t]
    return torch.stack(rows) + p.get(f"{name}_bias", torch.zeros(()).to(t))


def gelu(t: Tensor) -> Tensor:
    return t * (1 + torch.erf(t / sqrt(2))) / 2


def mlp(t: Tensor, p: P) -> Tensor:
    return dense(gelu(dense(t, p, "fc1")), p, "fc2")


def multi_head(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """One query (D,) over (N, D); return the joined heads (D,) and the maps (heads, N)."""
    width, joined, maps = len(query) // heads, [], []
    for h in range(heads):
        mine = slice(h * width, (h + 1) * width)
        weights = softmax(torch.stack([query[mine] @ key[mine] / sqrt(width) for key in keys]))
        joined.append(sum(w * value[mine] for w, value in zip(weights, values, strict=True)))
        maps.append(weights)
    return torch.cat(joined), torch.stack(maps)


@of_image
def ep(x: Tensor, p: P, s: Settings) -> Pooled:
    values = torch.stack([p["value"] @ token for token in x])
    maps = torch.stack([softmax(torch.stack([q @ token / sqrt(DIM) for token in x])) for q in p["queries"]])
    blocks = zip(maps, values.chunk(s["queries"], dim=1), strict=True)
    return torch.cat([sum(w * row for w, row in zip(a, block, strict=True)) for a, block in blocks]), maps


@of_image
def abmilp(x: Tensor, p: P, s: Settings) -> Pooled:
    if s["content"] == "patch":
        x = x[-6:]
    mixed = x
    if s["self_attention"] != "none":
        query, key, value = (x @ weight.T for weight in p["qkv_weight"].chunk(3))
        mixed = torch.stack([multi_head(q, key, value, 1)[0] for q in query])
        mixed = dense(mixed, p, "proj")
    z, v = mixed, mixed if s["self_attention"] == "both" else x
    if s["cond"] == "pe":
        z = torch.cat([z[:-6], z[-6:] + positions()])
    f = {"tanh": torch.tanh, "relu": torch.relu}[s["activation"]]
    for layer in range(s["depth"]):
        z = dense(f(z) if layer else z, p, f"score{layer}")
    weights = softmax(z[:, 0])
    return sum(w * row for w, row in zip(weights, v, strict=True)), weights[None]


def positions() -> Tensor:
    """Sines and cosines of the column, then of the row, place by place."""
    table = []
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            angles = [[at * exp(-log(10000) * i / 6) for i in range(6)] for at in (column, row)]
            table.append(
                [
                    wave
                    for axis in angles
                    for f in (torch.sin, torch.cos)
                    for wave in f(torch.tensor(axis, dtype=torch.float64))
                ]
            )
    return torch.tensor(table, dtype=torch.float64)


@of_image
def simpool(x: Tensor, p: P, s: Settings) -> Pooled:
    normed = norm(x, p["norm_weight"], p["norm_bias"], 1e-6)
    return multi_head(p["q_weight"] @ x.mean(0), dense(normed, p, "k"), normed, 1)


@of_image
def esimpool(x: Tensor, p: P, s: Settings) -> Pooled:
    query, keys = (norm(t, p["norm_weight"], p["norm_bias"], 1e-6) for t in (x.mean(0, keepdim=True), x))
    return multi_head(query[0], keys, x, s["heads"])


@of_image
def clip(x: Tensor, p: P, s: Settings) -> Pooled:
    normed = norm(x, p["norm_weight"], p["norm_bias"], 1e-6)
    n_prefix = len(x) - 6
    places = torch.cat([p["position"][:1], torch.zeros(n_prefix, DIM).to(x), p["position"][1:]])
    query, keys, values = dense(torch.cat([normed.mean(0, keepdim=True), normed]) + places, p, "qkv").chunk(3, dim=1)
    joined, maps = multi_head(query[0], keys, values, s["heads"])
    return dense(joined[None], p, "proj")[0], maps[:, 1:]


@of_image
def siglip(x: Tensor, p: P, s: Settings) -> Pooled:
    keys, values = dense(x, p, "kv").chunk(2, dim=1)
    joined, maps = multi_head(dense(p["latent"], p, "q")[0], keys, values, s["heads"])
    o = dense(joined[None], p, "proj")
    return (o + mlp(o, p))[0], maps


@of_image
def jepa(x: Tensor, p: P, s: Settings) -> Pooled:
    for block in range(s["depth"] - 1):
        own = {
            key.removeprefix(f"block{block}_"): value for key, value in p.items() if key.startswith(f"block{block}_")
        }
        rows = dense(norm(x, own["norm1_weight"], own["norm1_bias"], 1e-5), own, "qkv")
        query, keys, values = rows.chunk(3, dim=1)
        mixed = torch.stack([multi_head(q, keys, values, s["heads"])[0] for q in query])
        x = x + dense(mixed, own, "proj")
        x = x + mlp(norm(x, own["norm2_weight"], own["norm2_bias"], 1e-5), own)
    keys, values = dense(norm(x, p["norm1_weight"], p["norm1_bias"], 1e-5), p, "kv").chunk(2, dim=1)
    joined, maps = multi_head(dense(p["query"], p, "q")[0], keys, values, s["heads"])
    y = p["query"] + dense(joined[None], p, "proj")
    return (y + mlp(norm(y, p["norm2_weight"], p["norm2_bias"], 1e-5), p))[0], maps


@of_image
def alf(x: Tensor, p: P, s: Settings) -> Pooled:
    keys = dense(norm(x, p["norm_k_weight"], p["norm_k_bias"], 1e-5), p, "k")
    values = dense(norm(x, p["norm_v_weight"], p["norm_v_bias"], 1e-5), p, "v")
    query = dense(norm(p["query"], p["norm_q_weight"], p["norm_q_bias"], 1e-5), p, "q")[0]
    joined, maps = multi_head(query, keys, values, s["heads"] or 2)
    return dense(joined[None], p, "proj")[0], maps


@of_image
def cae(x: Tensor, p: P, s: Settings) -> Pooled:
    query, keys, values = (
        dense(norm(t, p[f"norm_{n}_weight"], p[f"norm_{n}_bias"], 1e-5), p, n)
        for n, t in (("q", p["query"]), ("k", x), ("v", x))
    )
    joined, maps = multi_head(query[0], keys, values, s["heads"])
    return dense(joined[None], p, "proj")[0], maps


@of_image
def cait(x: Tensor, p: P, s: Settings) -> Pooled:
    c = p["query"]
    t = norm(torch.cat([c, x]), p["norm1_weight"], p["norm1_bias"], 1e-6)
    joined, maps = multi_head(dense(t, p, "q")[0], dense(t, p, "k"), dense(t, p, "v"), s["heads"])
    c = c + p["scale1"] * dense(joined[None], p, "proj")
    c = c + p["scale2"] * mlp(norm(c, p["norm2_weight"], p["norm2_bias"], 1e-6), p)
    return norm(c, p["norm_weight"], p["norm_bias"], 1e-5)[0], maps[:, 1:]


@of_image
def coca(x: Tensor, p: P, s: Settings) -> Pooled:
    normed = norm(p["query_bank"], p["norm_weight"], torch.zeros(DIM).to(x), 1e-5)
    outputs = []
    for query in dense(normed, p, "q"):  # all of them, as published
        keys, values = dense(x, p, "kv").chunk(2, dim=1)
        heads = [multi_head(mine, keys, values, 1) for mine in query.chunk(s["heads"])]
        outputs.append((torch.cat([y for y, _ in heads]), torch.cat([maps for _, maps in heads])))
    joined, maps = outputs[0]
    return p["proj_weight"] @ joined, maps


@of_image
def dinovit(x: Tensor, p: P, s: Settings) -> Pooled:
    query, keys, values = dense(norm(x, p["norm1_weight"], p["norm1_bias"], 1e-5), p, "qkv").chunk(3, dim=1)
    rows = [multi_head(q, keys, values, s["heads"]) for q in query]
    x = x + dense(torch.stack([y for y, _ in rows]), p, "proj")
    x = x + mlp(norm(x, p["norm2_weight"], p["norm2_bias"], 1e-5), p)
    return x.mean(0), torch.stack([maps for _, maps in rows]).mean(0)


def batch_norm(values: Tensor, eps: float, statistics: P | None) -> Tensor:
    """Norm (…, C) by channel over everything else, or by running statistics."""
    flat = values.flatten(0, -2)
    mean = flat.mean(0) if statistics is None else statistics["running_mean"]
    variance = ((flat - mean) ** 2).mean(0) if statistics is None else statistics["running_var"]
    return (values - mean) / torch.sqrt(variance + eps)


@of_batch
def aim(x: Tensor, p: P, s: Settings, statistics: P | None) -> Pooled:
    normed = batch_norm(x, 1e-6, statistics) if s["token_norm"] == "batch" else x
    results = [multi_head(p["query"][0], t @ p["key"].T, t @ p["value"].T, s["heads"] or 1) for t in normed]
    return torch.stack([y for y, _ in results]), torch.stack([maps for _, maps in results])


@of_batch
def dolg(x: Tensor, p: P, s: Settings, statistics: P | None) -> Pooled:
    projected = torch.stack([dense(tokens, p, "conv1") for tokens in x])
    f = batch_norm(projected, 1e-5, statistics) * p["bn_weight"] + p["bn_bias"]
    scores = torch.log(1 + torch.exp(torch.relu(f) @ p["conv2_weight"][0] + p["conv2_bias"]))
    lengths = torch.sqrt((f**2).sum(-1, keepdim=True))
    return (scores[..., None] * f / lengths).mean(1), scores[:, None] / x.shape[1]


@of_batch
def cbam(x: Tensor, p: P, s: Settings, statistics: P | None) -> Pooled:
    def excite(v: Tensor) -> Tensor:
        return torch.relu(v @ p["fc1_weight"].T) @ p["fc2_weight"].T

    gate = torch.sigmoid(excite(x.mean(1)) + excite(x.max(1).values))
    gated = gate[:, None] * x
    planes = torch.stack([gated.mean(2), gated.max(2).values], dim=1).view(len(x), 2, *GRID)
    raw = torch.zeros(len(x), *GRID, dtype=x.dtype)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            for r in range(GRID[0]):
                for c in range(GRID[1]):
                    kernel = p["conv_weight"][:, r - row + 3, c - column + 3]
                    raw[:, row, column] = raw[:, row, column] + planes[:, :, r, c] @ kernel
    normed = batch_norm(raw[..., None], 1e-5, statistics) * p["bn_weight"] + p["bn_bias"]
    places = torch.sigmoid(normed).view(len(x), 6, 1)
    return torch.relu(places * gated + x).mean(1), places.transpose(1, 2)


@of_image
def linear(x: Tensor, p: P, s: Settings) -> Pooled:
    mean = x.sum(0) / len(x)
    of_kind = {
        "cls": x[0],
        "mean": mean,
        "cls+mean": torch.cat([x[0], x[-1]]),
        "max": torch.stack([max(channel) for channel in x.T]),
        "embedding": x[0],
    }
    pooled = of_kind[s["pool"]]
    return pooled / sqrt(sum(v**2 for v in pooled)) if s["unit"] else pooled, None
