"""The cases of `plain.py`: each is our side and a plain script's."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.solvers import SOLVERS
from tokenprobe.probe.training.group import Group, GroupSetup
from tokenprobe.store import open_store

EPOCHS, RATES, SHOTS, N_SUBSETS = 90, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (1, 2, 4, 8, 16), 5
STEPS = ((1, 10, 32), (6, 10, 32), (54, 10, 256), (6, 1000, 256), (54, 1000, 256))
STEP_WIDTH, RATE = 192, 1e-6
"""Width and rate of single steps. A larger rate would learn the one batch by heart, and tiny numbers are slow."""
Side = Callable[[], Any]
Case = tuple[Side, Side]


def linear_head(width: int, n_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), nn.Linear(width, n_classes))


class Vectors:
    """The mean vectors of a store's layer, and fits from that store."""

    def __init__(self, store: Path, layer: int, folder: Path) -> None:
        self.store, self.layer, self._folder, self._numbers = store, layer, folder, count()
        opened = open_store(store)
        self.x, self.test_x = (
            torch.from_numpy(opened[split].tokens(layer, rows=np.arange(len(opened[split])), kind="mean"))
            for split in ("train", "test")
        )
        self.y, self.test_y = (torch.from_numpy(np.asarray(opened[split].labels)) for split in ("train", "test"))
        self.n_classes = int(self.y.max()) + 1

    def new_run(self) -> str:
        """Return a folder for a run."""
        return str(self._folder / f"run{next(self._numbers)}")

    def fit(self, **settings: Any) -> None:
        """Fit on the layer, in a new run."""
        fit(self.store, FitConfig(out=self.new_run(), layers=str(self.layer), device="cpu", **settings))

    def subset(self, shots: int, seed: int) -> Tensor:
        """Return rows of the training split, `shots` of each class."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        return torch.cat([order[self.y[order] == label][:shots] for label in range(self.n_classes)])

    def train_plainly(self, rows: Tensor, rate: float, batch: int, scored_every: int) -> float:
        """Train one linear head on some rows with the published schedule; return the best accuracy."""
        x, y, warmup, best = self.x[rows], self.y[rows], EPOCHS / 9, 0.0
        head, steps = linear_head(x.shape[1], self.n_classes), max(1, len(rows) // batch)
        peak = rate * batch / 256
        optimizer = torch.optim.SGD(head.parameters(), lr=peak, momentum=0.9)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(rows))
            head.train()
            for step in range(steps):
                done = epoch + step / steps
                cosine = 0.5 * (1 + math.cos(math.pi * (done - warmup) / (EPOCHS - warmup)))
                optimizer.param_groups[0]["lr"] = peak * (done / warmup if done < warmup else cosine)
                chosen = order[step * batch : (step + 1) * batch]
                loss = F.cross_entropy(head(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if (epoch + 1) % scored_every == 0:
                head.eval()
                with torch.no_grad():
                    best = max(best, (head(self.test_x).argmax(1) == self.test_y).double().mean().item())
        return best


def one_head(v: Vectors) -> Case:
    settings = {"protocol": "paper", "optimizer": "sgd", "batch_size": 256, "lr": [0.1], "epochs": EPOCHS}
    every = torch.arange(len(v.y))
    return lambda: v.fit(heads=["linear:pool=mean"], **settings), lambda: v.train_plainly(every, 0.1, 256, 1)


def low_shot(v: Vectors) -> Case:
    def plain() -> None:
        for shots in SHOTS:
            for seed in range(N_SUBSETS):
                rows = v.subset(shots, seed)
                for rate in RATES:
                    v.train_plainly(rows, rate / 10, min(32, len(rows)), 9)

    shots = [str(each) for each in SHOTS]
    return lambda: v.fit(heads=["linear:pool=mean"], shots=shots, seeds=N_SUBSETS, lr=list(RATES)), plain


def logreg(v: Vectors, shots: int) -> Case:
    unit, test_x = F.normalize(v.x).numpy(), F.normalize(v.test_x).numpy()

    def plain() -> None:
        for seed in range(3):
            rows = v.subset(shots, seed).numpy()
            for strength in 10 ** np.linspace(-6, 5, 45):
                model = LogisticRegression(C=strength, max_iter=1000).fit(unit[rows], v.y.numpy()[rows])
                (model.predict(test_x) == v.test_y.numpy()).mean()

    # the plain script chooses nothing on held-out images; under `select` ours fits every strength on folds as well
    return lambda: v.fit(heads=["logreg"], shots=[str(shots)], seeds=3, protocol="paper"), plain


def step(n_cells: int, n_classes: int, batch: int) -> Case:
    spec = parse_heads(["linear:pool=mean"])[0]
    cells = [Cell("b", LayerSet((0,)), spec, "sgd", RATE, 0.0, "full", seed) for seed in range(n_cells)]
    shape = TokenShape((8, 8), STEP_WIDTH, 1)
    group = Group(
        cells, GroupSetup(shape, n_classes, batch_size=batch, device=torch.device("cpu"), precision="float32")
    )
    x, y = torch.randn(batch, STEP_WIDTH), torch.randint(n_classes, (batch,))
    heads = [linear_head(STEP_WIDTH, n_classes) for _ in cells]
    optimizers = [torch.optim.SGD(head.parameters(), lr=RATE, momentum=0.9) for head in heads]
    n_steps = max(3, int(800 / (n_cells * (n_classes / 10) ** 0.6)))

    def ours() -> None:
        for _ in range(n_steps):
            group.train_batch(TokenBatch({"mean": x}, y), 1.0)

    def plain() -> None:
        for _ in range(n_steps):
            for head, optimizer in zip(heads, optimizers, strict=True):
                loss = F.cross_entropy(head(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return ours, plain


def first_fit(v: Vectors) -> Case:
    arrays = f"{v.new_run()}.npz"
    np.savez(arrays, x=v.x, y=v.y, test_x=v.test_x, test_y=v.test_y)
    rows = ["--head", "linear:pool=mean", "--layers", str(v.layer), "--lr", "0.1", "--epochs", "9", "--device", "cpu"]
    ours = [sys.executable, "-m", "tokenprobe", "fit", str(v.store), "--quiet", *rows, "-o"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(command: Sequence[str]) -> None:
        subprocess.run(command, check=True, env=environment, capture_output=True)

    return lambda: run([*ours, v.new_run()]), lambda: run([sys.executable, "-c", FIRST_SCRIPT, arrays])


FIRST_SCRIPT = """
import sys
import numpy as np, torch, torch.nn as nn
d = {name: torch.from_numpy(values) for name, values in np.load(sys.argv[1]).items()}
head = nn.Sequential(nn.BatchNorm1d(d["x"].shape[1], affine=False), nn.Linear(d["x"].shape[1], int(d["y"].max()) + 1))
optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
for epoch in range(9):
    head.train()
    for rows in torch.randperm(len(d["x"])).split(256):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(d["x"][rows]), d["y"][rows]).backward()
        optimizer.step()
    head.eval()
    print((head(d["test_x"]).argmax(1) == d["test_y"]).float().mean().item())
"""


def solve(name: str, changes: Sequence[dict[str, Any]], x: Tensor, y: Tensor, n_classes: int, others: Tensor) -> None:
    """Fit a solver at all its penalties, and score other images."""
    kind = SOLVERS[name]
    decays = list(kind.penalties or [0.0])
    solver = kind([{**kind.defaults, **change} for change in changes for _ in decays], decays * len(changes))
    solver.fit(x, y, n_classes)
    for scores in solver.scores(others):
        scores.argmax(2)


def knn_bank() -> Case:
    n_classes, ks = 1000, (20, 100, 200)
    generator = torch.Generator().manual_seed(0)
    y, others_y = (torch.randint(n_classes, (n,), generator=generator) for n in (50_000, 1000))
    centres = torch.randn(n_classes, 384, generator=generator)
    x, others = (centres[labels] + 2 * torch.randn(len(labels), 384, generator=generator) for labels in (y, others_y))

    def plain() -> None:
        similarity, found = (F.normalize(others) @ F.normalize(x).T).topk(max(ks), 1)
        weights = (similarity / 0.07).exp()
        for k in ks:
            votes = torch.zeros(len(others), n_classes).scatter_add_(1, y[found[:, :k]], weights[:, :k])
            (votes.argmax(1) == others_y).double().mean().item()

    return lambda: solve("knn", [{"k": k} for k in ks], x, y, n_classes=n_classes, others=others), plain


def knn_small(v: Vectors) -> Case:
    ks = (10, 20, 100, 200)

    def plain() -> None:
        bank = F.normalize(v.x).T.contiguous()
        for x, y in zip(F.normalize(v.test_x).split(256), v.test_y.split(256), strict=True):
            similarity, found = (x @ bank).topk(max(ks), 1)
            votes = F.one_hot(v.y[found], v.n_classes) * (similarity / 0.07).softmax(1)[..., None]
            for k in ks:
                (votes[:, :k].sum(1).argmax(1) == y).sum()

    return lambda: solve("knn", [{"k": k} for k in ks], v.x, v.y, n_classes=v.n_classes, others=v.test_x), plain


def ridge(n: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    x, y, others = torch.randn(n, 3072, generator=generator), torch.arange(n), torch.randn(n, 3072, generator=generator)

    def plain() -> None:
        mean, std = x.mean(0), (x.var(0, unbiased=False) + 1e-6).sqrt()
        z, targets = ((x - mean) / std).double(), F.one_hot(y, n).double()
        gram, centred, other_z = z @ z.T, targets - targets.mean(0), (others - mean) / std
        for penalty in SOLVERS["ridge"].penalties:
            solution = torch.linalg.solve(gram + n * penalty * torch.eye(n, dtype=torch.float64), centred)
            (other_z @ (z.T @ solution).float()).argmax(1)

    return lambda: solve("ridge", [{}], x, y, n_classes=n, others=others), plain


def cases(v: Vectors) -> Iterator[tuple[str, Callable[[], Case]]]:
    """Yield a name and a maker per case. The first word of a name selects it on the command line."""
    loop = "a loop with torch.optim.SGD"
    yield (
        f"one_head: a fit of a linear head, {EPOCHS} epochs, from store to report, against {loop}",
        lambda: one_head(v),
    )
    for n_cells, n_classes, batch in STEPS:
        name = (
            f"step_{n_cells}_{n_classes}: a step of {n_cells} linear cells, {n_classes} classes, against single heads"
        )
        yield name, partial(step, n_cells, n_classes, batch)
    fit_size = f"{len(SHOTS)} sizes × {N_SUBSETS} subsets × {len(RATES)} rates"
    yield f"low_shot: a fit of {fit_size}, against {loop}", lambda: low_shot(v)
    yield "first_fit: `probe fit` of a head in a new process, against a script that imports torch", lambda: first_fit(v)
    bank = "1,000 queries in a bank of 50,000 × 384, 1,000 classes"
    yield f"knn_bank: {bank}, against one product, topk and scatter_add", knn_bank
    yield "knn_small: the test split in the training split, against votes as one-hot labels", lambda: knn_small(v)
    for shots in (4, 16):
        name = f"logreg_{shots}: a fit of 45 strengths on 3 subsets of {shots} images per class, against scikit-learn"
        yield name, partial(logreg, v, shots)
    for n in (100, 1000):
        name = f"ridge_{n}: 10 penalties on {n} images, one per class, 3,072 wide, against a linear system per penalty"
        yield name, partial(ridge, n)
