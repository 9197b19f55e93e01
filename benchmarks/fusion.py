"""A sweep of attentive layer fusion: stacked cells against plain modules, one after another, on the same features.

    python benchmarks/fusion.py [--repeats 5] [--layers 12] [--dim 192] [--images 256]

The sweep is that of the paper: 3 rates, 3 dropouts, 5 seeds, AdamW, gradients clipped to norm 5, on class tokens and
means of every layer. A plain module has the published order of operations: keys and values of every token. Both make
steps on one batch in memory, with one thread. CPU seconds.
"""

from collections.abc import Iterator
from itertools import product

import torch
from rows import Call, Row, cpu_seconds, make_parser, make_row, report, take_turns  # the file beside this one
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


def plain_sweep(x: Tensor, labels: Tensor) -> Call:
    """Return a function that makes one step of every cell, each a module of its own."""
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

    return step


def stacked_sweep(x: Tensor, labels: Tensor, n_layers: int) -> Call:
    """Return a function that makes one step of every cell, stacked."""
    shape = TokenShape((1, 1), x.shape[2], 1, n_layers=n_layers)
    setup = GroupSetup(shape, CLASSES, len(x), torch.device("cpu"), "float32", clip_grad=CLIP)
    groups = []
    for dropout in DROPOUTS:
        (spec,) = parse_heads([f"alf:dropout={dropout}"])
        layers = LayerSet(tuple(range(n_layers)), stacked=True)
        cells = [Cell("b", layers, spec, "adamw", rate, 0.0, "full", seed) for rate, seed in product(RATES, SEEDS)]
        groups.append(Group(cells, setup))

    def step() -> None:
        batch = TokenBatch({"cls": x[:, :n_layers], "mean": x[:, n_layers:]}, labels)
        for group in groups:
            group.train_batch(batch, 1.0)

    return step


def measure(n_layers: int, dim: int, n_images: int, repeats: int) -> Iterator[Row]:
    torch.set_num_threads(1)
    x, labels = torch.randn(n_images, 2 * n_layers, dim), torch.randint(CLASSES, (n_images,))
    sides = {"plain": plain_sweep(x, labels), "ours": stacked_sweep(x, labels, n_layers)}
    found = take_turns(sides, repeats, clock=cpu_seconds)
    n_cells = len(RATES) * len(DROPOUTS) * len(SEEDS)
    name = f"a step of {n_cells} cells of attentive layer fusion, against plain modules"
    yield make_row(name, found["ours"], found["plain"], "CPU s")


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    for name, default in (("layers", 12), ("dim", 192), ("images", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    report("fusion", measure(given.layers, given.dim, given.images, given.repeats), given.json)


if __name__ == "__main__":
    main()
