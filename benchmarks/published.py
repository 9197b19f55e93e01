"""Steps of the same heads in the evaluation code of DINOv2 and of CAPI, which the user has checked out.

    python benchmarks/published.py [--dinov2 PATH] [--capi PATH] [--repeats 5] [--json FILE]

All data are in memory, and both sides use one thread. CPU seconds.

* DINOv2's nearest neighbours: `KnnModule` of dinov2/eval/knn.py with k = 10, 20, 100 and 200, and the accuracies, for
  2,000 queries in a bank of 20,000 vectors 384 wide, 100 classes.
* DINOv2's linear probes: a step of its 52 classifiers (`AllClassifiers` of dinov2/eval/linear.py), 13 rates on one and
  on four blocks, with and without the mean. The tokens of 128 images are 196 × 384, 100 classes. Ours are the cells of
  `--preset dinov2-linear`. Theirs average the tokens in every step; our store holds the means.
* CAPI's attentive probes: a step of the 30 classifiers `AttnPoolClassifier` of its eval_classification.py, 10 rates × 3
  decays, on the same tokens. Ours are the cells of `--preset capi`.

The training loops of both need a GPU and their data sets. So the loop around their modules is written here.
"""

import argparse
import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from checkouts import NotRunError, checkout  # the files beside this one
from plain_cases import Case, solve
from rows import Row, cpu_seconds, make_parser, make_row, not_run, report, take_turns
from torch import Tensor, nn

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.token_batch import TokenBatch
from tokenprobe.probe.batches.token_shape import TokenShape
from tokenprobe.probe.grid.cells import Cell
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.presets import load_preset
from tokenprobe.probe.training.group import Group, GroupSetup

BATCH, GRID, DIM, N_CLASSES, N_BLOCKS = 128, (14, 14), 384, 100, 4
KS = [10, 20, 100, 200]


def make_groups(preset: str, dims: Sequence[int]) -> list[Group]:
    """Return groups with the heads, rates and decays of a preset, for tokens of some widths."""
    settings = load_preset(preset).settings
    pairs, groups = [*itertools.product(settings["lr"], settings["weight_decay"])], []
    for spec, dim in itertools.product(parse_heads(settings["heads"]), dims):
        setup = GroupSetup(TokenShape(GRID, dim, 1), N_CLASSES, BATCH, torch.device("cpu"), "float32")
        cells = [Cell("b", LayerSet((0,)), spec, settings["optimizer"], lr, wd, "full", 0) for lr, wd in pairs]
        groups.append(Group(cells, setup))
    return groups


def step_of(groups: Sequence[Group], arrays: Sequence[dict[str, Tensor]], labels: Tensor) -> Callable[[], None]:
    """Return a function that makes one step of each group on its tokens."""

    def step() -> None:
        for group, tokens in zip(groups, arrays, strict=True):
            group.train_batch(TokenBatch(tokens, labels), 1e-3)

    return step


def dinov2_knn(path: Path | None) -> Case:
    generator = torch.Generator().manual_seed(0)
    y, others_y = (torch.randint(N_CLASSES, (n,), generator=generator) for n in (20_000, 2000))
    centres = torch.randn(N_CLASSES, DIM, generator=generator)
    x, others = (centres[labels] + 2 * torch.randn(len(labels), DIM, generator=generator) for labels in (y, others_y))
    with checkout(path, "--dinov2"):
        knn = importlib.import_module("dinov2.eval.knn")
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]

    def theirs() -> None:
        bank = F.normalize(x)
        module = knn.KnnModule(bank, y, nb_knn=KS, T=0.07, device=torch.device("cpu"), num_classes=N_CLASSES)
        for queries, labels in zip(F.normalize(others).split(256), others_y.split(256), strict=True):
            for votes in module(queries).values():
                (votes.argmax(1) == labels).sum()

    return lambda: solve("knn", [{"k": k} for k in KS], x, y, n_classes=N_CLASSES, others=others), theirs


def dinov2_linear(path: Path | None) -> Case:
    features = [(torch.randn(BATCH, GRID[0] * GRID[1], DIM), torch.randn(BATCH, DIM)) for _ in range(N_BLOCKS)]
    y, rates = torch.randint(N_CLASSES, (BATCH,)), load_preset("dinov2-linear").settings["lr"]
    with checkout(path, "--dinov2"):
        linear = importlib.import_module("dinov2.eval.linear")
    classifiers: dict[str, nn.Module] = {}
    parts = []
    for n_blocks, mean, rate in itertools.product((1, N_BLOCKS), (False, True), rates):
        width = DIM * (n_blocks + mean)
        made = linear.LinearClassifier(width, use_n_blocks=n_blocks, use_avgpool=mean, num_classes=N_CLASSES)
        classifiers[str(len(classifiers))] = made
        parts.append({"params": made.parameters(), "lr": rate * BATCH / 256})
    together, optimizer = linear.AllClassifiers(classifiers), torch.optim.SGD(parts, lr=0.1, momentum=0.9)

    def theirs() -> None:
        loss: Any = sum(F.cross_entropy(logits, y) for logits in together(features).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    classes = torch.cat([of_block for _, of_block in features], 1)
    means = torch.cat([patches.mean(1) for patches, _ in features], 1)
    dims = DIM, N_BLOCKS * DIM
    arrays = [{"prefix": classes[:, None, -dim:], "mean": means[:, -dim:]} for dim in dims]
    return step_of(make_groups("dinov2-linear", dims), 2 * arrays, y), theirs


def capi_attentive(path: Path | None) -> Case:
    tokens, y = torch.randn(BATCH, GRID[0] * GRID[1], DIM), torch.randint(N_CLASSES, (BATCH,))
    settings = load_preset("capi").settings
    with checkout(path, "--capi"):
        code = importlib.import_module("eval_classification")
    keys = [("patch", pair) for pair in itertools.product(settings["lr"], settings["weight_decay"])]
    classifiers = code.AllClassifiers({key: code.AttnPoolClassifier(DIM, N_CLASSES) for key in keys})
    named = zip(keys, classifiers, strict=True)
    parts: list[dict[str, Any]] = [
        {"params": each.parameters(), "lr": lr * BATCH / 256, "weight_decay": wd} for (_, (lr, wd)), each in named
    ]
    optimizer = torch.optim.AdamW(parts, lr=0.0, betas=(0.9, 0.95))

    def theirs() -> None:
        logits = torch.stack(list(classifiers({"patch": tokens}).values()), dim=-1)
        loss = F.cross_entropy(logits, y[:, None].expand(-1, len(keys)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step_of(make_groups("capi", (DIM,)), [{"patch": tokens}], y), theirs


def measure(given: argparse.Namespace) -> Iterator[Row]:
    cases: dict[str, tuple[Callable[[Path | None], Case], Path | None]] = {
        "k nearest neighbours, against DINOv2's evaluation code": (dinov2_knn, given.dinov2),
        "a step of 52 linear probes, against DINOv2's evaluation code": (dinov2_linear, given.dinov2),
        "a step of 30 attentive probes, against CAPI's evaluation code": (capi_attentive, given.capi),
    }
    for name, (make, path) in cases.items():
        try:
            ours, theirs = make(path)
        except NotRunError as error:
            yield not_run(name, str(error))
            continue
        found = take_turns({"ours": ours, "theirs": theirs}, given.repeats, clock=cpu_seconds)
        yield make_row(name, found["ours"], found["theirs"], "CPU s")


def main() -> None:
    parser = make_parser(__doc__, repeats=5)
    parser.add_argument("--dinov2", type=Path, help="checkout of github.com/facebookresearch/dinov2")
    parser.add_argument("--capi", type=Path, help="checkout of github.com/facebookresearch/capi")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report("published", measure(given), given.json)


if __name__ == "__main__":
    main()
