"""A small store of which every token is known, a fit of it that takes a second, and the plain loop it should follow."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.order import epoch_windows
from tokenprobe.probe.batches.token_shape import stored_kind
from tokenprobe.probe.planning.layer_plan import LayerPlan, make_layer_plan
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.probe.planning.plan import Plan
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Manifest, Store
from tokenprobe.store.durable import write_durably
from tokenprobe.store.formats import store_files

LABELS = {"train": np.random.default_rng(0).permutation(88) % 4, "test": np.random.default_rng(1).permutation(60) % 4}
HEADS = ["ep:queries=4", "linear:pool=cls", "linear:pool=mean"]
LAYERS, GRID, BLOCK_ROWS = (0, 1), (2, 3), 4
UNSTABLE = ["store", "train_seconds", "train_cpu_seconds"]
"""Columns of the results that may differ between two runs of the same command."""

WriteStore = Callable[..., Store]


def make_tokens(labels: np.ndarray, layer: int, seed: int) -> dict[str, np.ndarray]:
    """Class centres at some patches, fainter in layer 0, under noise: neither chance nor perfect.

    The last layer has an embedding too, 5 wide.
    """
    centres = np.random.default_rng(9).normal(size=(4, 6, 8)) * (0.5 + 0.5 * layer)
    patch = np.random.default_rng([seed, layer]).normal(size=(len(labels), 6, 8)) + centres[labels]
    prefix = patch[:, :2] - 1
    arrays = {
        "patch": patch.astype(np.float16),
        "prefix": prefix.astype(np.float16),
        "mean": patch.mean(1).astype(np.float32),
    }
    if layer == LAYERS[-1]:
        arrays["embedding"] = (patch.mean(1) @ np.random.default_rng(8).normal(size=(8, 5))).astype(np.float32)
    return arrays


def tokens_of(split: str, view: int = 0) -> dict[int, dict[str, np.ndarray]]:
    """Return all tokens of one split and view, by layer and kind."""
    seed = list(LABELS).index(split) + 10 * view
    return {layer: make_tokens(LABELS[split], layer, seed) for layer in LAYERS}


def write_made(
    write_store: WriteStore,
    path: Path,
    labels: Mapping[str, np.ndarray] = LABELS,
    blank: Any = (),
    **options: Any,
) -> Store:
    """Write tokens of `LABELS` under the names of `labels`, those of the `blank` training rows as zeros."""
    tokens = {split: tokens_of(split) for split in LABELS}
    for arrays in tokens["train"].values():
        for values in arrays.values():
            values[list(blank)] = 0
    return write_store(path, tokens, labels, grid=GRID, block_rows=BLOCK_ROWS, **options)


def fit_made(store: Store, out: Path, **changes: Any) -> Run:
    """Fit the heads of `HEADS` for four epochs at two rates, but for the changes."""
    settings: dict[str, Any] = {"heads": HEADS, "lr": [1.0, 10.0], "epochs": 4, "batch_size": 16, "device": "cpu"}
    return fit(store.path, FitConfig(out=out, **settings | changes))


def plan_of(store: Store, **settings: Any) -> Plan:
    """Plan a fit of one linear head on the CPU, but for the settings."""
    config = FitConfig(**{"out": "run", "heads": ["linear"], "device": "cpu"} | settings)
    return make_plan(store, config, make_machine(config).precision)


def layer_plan_of(plan: Plan, layers: LayerSet) -> LayerPlan:
    """Plan one layer, of which nothing is fitted yet, on this machine."""
    return make_layer_plan(plan, make_machine(plan.config), layers, frozenset())


def assert_same(one: Run, two: Run) -> None:
    """Assert that two runs have bit-equal tables and heads, but for what may differ."""
    columns = [name for name in one.results if name not in UNSTABLE]
    differing = [name for name in columns if not one.results[name].equals(two.results[name])]
    assert not differing
    assert one.history.equals(two.history)
    heads = [{file.name: file.read_bytes() for file in sorted(run.path.glob("heads/*"))} for run in (one, two)]
    assert heads[0] == heads[1]
    kept = [{file.name: file.read_bytes() for file in run.path.glob("predictions/*")} for run in (one, two)]
    assert kept[0] == kept[1]


def pooled_tokens(store: Store, split: str, layer: int, kinds: str) -> torch.Tensor:
    """Return the arrays of a results' column `tokens`, joined along the token axis, float32."""
    arrays = [
        torch.from_numpy(store[split].tokens(layer, kind=stored_kind(kind))).float()[:, : 1 if kind == "cls" else None]
        for kind in kinds.split("+")
    ]
    return torch.cat([values if values.ndim == 3 else values[:, None] for values in arrays], dim=1)


def plain_ep() -> tuple[list[nn.Parameter], Callable[[torch.Tensor], torch.Tensor]]:
    """Return the parameters and the function of EP with four queries, that projects every token."""
    project = nn.Linear(8, 8, bias=False)
    queries = nn.Parameter(0.02 * torch.randn(1, 4, 8))

    def pool(tokens: torch.Tensor) -> torch.Tensor:
        attention = (queries[0] @ tokens.transpose(1, 2) / 8**0.5).softmax(2)
        blocks = project(tokens).unflatten(2, (4, 2))
        return torch.einsum("bqn,bnqw->bqw", attention, blocks).flatten(1)

    return [*project.parameters(), queries], pool


def plain_training(
    lr: float,
    seed: int,
    epochs: int,
    warmup: float,
    batch_size: int,
    rows: np.ndarray | None = None,
    n_views: int = 1,
    kind: str = "patch",
) -> list[tuple[float, float]]:
    """Return (training loss, test top-1) after each epoch of a head on layer 1, with torch's modules in float64.

    LARS, schedule and statistics are those of the published protocol.

    Args:
        lr: base rate.
        seed: of the initialisation.
        epochs: of the schedule.
        warmup: in epochs.
        batch_size: images in a step.
        rows: to train on; all if not given.
        n_views: epoch e trains on view e modulo this.
        kind: array that is read: EP pools patch tokens, other vectors are classified as they are.
    """
    views = [torch.from_numpy(tokens_of("train", view)[1][kind]).double() for view in range(n_views)]
    x_test = torch.from_numpy(tokens_of("test")[1][kind]).double()
    y, y_test = (torch.from_numpy(LABELS[split]) for split in LABELS)
    rows = np.arange(len(y)) if rows is None else rows
    torch.manual_seed(seed)
    own, pool = plain_ep() if kind == "patch" else ([], nn.Identity())
    width = x_test.shape[-1]
    classifier = nn.Linear(width, 4)
    norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
    parameters = [*own, classifier.weight, classifier.bias]
    momenta = [torch.zeros_like(parameter) for parameter in parameters]

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return classifier(norm(pool(tokens)))

    scored = []
    for epoch in range(epochs):
        order = torch.from_numpy(np.concatenate(epoch_windows(rows, BLOCK_ROWS, 0, epoch)))
        batches = [part for part in order.split(batch_size) if len(part) == batch_size]
        norm.train()
        losses, x = [], views[epoch % n_views]
        for number, part in enumerate(batches):
            now = epoch + number / len(batches)
            rise = now / warmup if now < warmup else (1 + cos(pi * (now - warmup) / (epochs - warmup))) / 2
            loss = nn.functional.cross_entropy(logits(x[part]), y[part])
            gradients = torch.autograd.grad(loss, parameters)
            losses.append(loss.item())
            for parameter, gradient, momentum in zip(parameters, gradients, momenta, strict=True):
                scale = 0.001 * parameter.norm() / gradient.norm() if parameter.ndim > 1 else 1.0
                momentum.mul_(0.9).add_((scale * gradient).detach())
                parameter.data -= lr * batch_size / 256 * rise * momentum
        norm.eval()
        scored.append((sum(losses) / len(losses), (logits(x_test).argmax(1) == y_test).double().mean().item()))
    return scored


def rewrite_root(store: Store, manifest: Manifest) -> None:
    """Let a store declare something else."""
    files = store_files(store.path)
    write_durably(files.root, files.root_bytes(manifest))


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Give the bytes of every read meanwhile."""
    read, preadv = list[int](), os.preadv

    def counted(*arguments: Any) -> int:
        n_bytes = preadv(*arguments)
        read.append(n_bytes)
        return n_bytes

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "preadv", counted)
        yield read
