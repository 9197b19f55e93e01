"""A sweep of attentive layer fusion: stacked cells against plain modules, one after another, on the same features.

    python benchmarks/fusion.py [--repeats 5] [--layers 12] [--dim 192] [--images 256]

The sweep is that of the paper: 3 rates, 3 dropouts, 5 seeds, AdamW, gradients clipped to norm 5, on class tokens and
means of every layer. A plain module has the published order of operations: keys and values of every token. Both make
steps on one batch in memory. Seconds are those of the processor, with one thread. Prints JSON.
"""

import argparse
import json
import time
from itertools import product

import torch
from torch import Tensor, nn

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.training.group import Group, GroupSetup

RATES, DROPOUTS, SEEDS, CLASSES, CLIP = (0.1, 0.01, 0.001), (0.0, 0.1, 0.3), range(5), 10, 5.0


class PlainFusion(nn.Module):
    """One probe in the published order of operations."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        """Make the layers."""
        super().__init__()
        self.heads, width = heads, 2 * (dim // heads) * heads
        self.query = nn.Parameter(0.02 * torch.randn(1, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.q, self.k, self.v = (nn.Linear(dim, width, bias=False) for _ in range(3))
        self.proj, self.drop = nn.Linear(width, dim), nn.Dropout(dropout)
        self.head = nn.Sequential(nn.BatchNorm1d(dim), nn.Linear(dim, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C) of tokens (B, N, D)."""
        q, k, v = self.q(self.norms[0](self.query)), self.k(self.norms[1](x)), self.v(self.norms[2](x))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for t in (q[None], k, v))
        weights = self.drop((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1))
        return self.head(self.proj((weights @ v).transpose(1, 2).flatten(2)[:, 0]))


def plain_sweep(x: Tensor, labels: Tensor) -> float:
    """Return the seconds of one step of every cell, each a module of its own."""
    modules = []
    for dropout, rate, seed in product(DROPOUTS, RATES, SEEDS):
        torch.manual_seed(seed)
        module = PlainFusion(x.shape[2], x.shape[1], dropout)
        modules.append((module, torch.optim.AdamW(module.parameters(), lr=rate)))

    def step() -> None:
        for module, optimizer in modules:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), labels).backward()
            nn.utils.clip_grad_norm_(module.parameters(), CLIP)
            optimizer.step()

    return _seconds(step)


def stacked_sweep(x: Tensor, labels: Tensor, n_layers: int) -> float:
    """Return the seconds of one step of every cell, stacked."""
    shape = TokenShape((1, 1), x.shape[2], 1, n_layers=n_layers)
    setup = GroupSetup(shape, CLASSES, len(x), torch.device("cpu"), "float32", clip_grad=CLIP)
    groups = []
    for dropout in DROPOUTS:
        (spec,) = parse_heads([f"alf:dropout={dropout}"])
        layers = LayerSet(tuple(range(n_layers)), stacked=True)
        cells = [Cell("b", layers, spec, "adamw", rate, 0.0, "full", seed) for rate, seed in product(RATES, SEEDS)]
        groups.append(Group(cells, setup))
    batch = TokenBatch({"cls": x[:, :n_layers], "mean": x[:, n_layers:]}, labels)

    def step() -> None:
        for group in groups:
            group.train_batch(batch, 1.0)

    return _seconds(step)


def _seconds(step: object) -> float:
    assert callable(step)
    step()
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    """Time both in turns."""
    parser = argparse.ArgumentParser()
    for name, default in (("repeats", 5), ("layers", 12), ("dim", 192), ("images", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, labels = torch.randn(given.images, 2 * given.layers, given.dim), torch.randint(CLASSES, (given.images,))
    turns = [(plain_sweep(x, labels), stacked_sweep(x, labels, given.layers)) for _ in range(given.repeats)]
    ratios = sorted(plain / ours for plain, ours in turns)
    found = {"plain_s": [plain for plain, _ in turns], "ours_s": [ours for _, ours in turns], "ratio": ratios}
    print(json.dumps({"benchmark": "fusion", **vars(given), **found, "median_ratio": ratios[len(ratios) // 2]}))


if __name__ == "__main__":
    main()
