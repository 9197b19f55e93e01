"""A whole sweep, from images to a report, against other ways to run the same cells on the same processor.

    python benchmarks/sweep.py [--images 5000] [--epochs 30] [--repeats 3] [--reference PATH] [--json FILE]

The sweep is {ep:queries=8, aim:heads=4, linear:pool=mean} × six layers × six rates on the demo's backbone and images.
Our time is that of the whole: extraction, training, scores after every epoch, and the report. The others train one cell
after another. For them one epoch of one cell of each head is timed, scores included, and multiplied by the numbers of
cells and epochs. Decoding is not counted for them.

* backbone in the loop: a forward pass in every epoch, up to the third layer of six.
* plain RAM script: one forward pass through all layers, whose tokens stay in memory. Then every cell trains from there.
* reference's engine: `train_one_epoch` and `evaluate` of its engine_finetune.py with its heads, backbone in the loop.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from checkouts import NotRunError, Reference  # the files beside this one
from published_heads import PublishedHead
from rows import Row, make_parser, make_row, not_run, report
from stand_ins import DEMO, make_demo_store
from torch import Tensor, nn

from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.probe import FitConfig, fit

BATCH, LAYER, N_LAYERS, RATES = 256, 2, 6, [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
HEADS = {"ep:queries=8": ("ep", 8), "aim:heads=4": ("aim", 4), "linear:pool=mean": ("linear", 1)}
N_CELLS = N_LAYERS * len(RATES)
"""Cells of one head."""


class Images:
    """The demo's backbone, and its images, normalised."""

    def __init__(self, n: int) -> None:
        """Decode at most n images of each split."""
        backbone, source = (
            load_backbone(DEMO["model"], **{k: DEMO[k] for k in ("model_arg", "checkpoint")}),
            open_demo(),
        )
        self.backbone: Any = backbone.module.eval().requires_grad_(False)
        to_pixels, self.x, self.y = Pixels(backbone.transform), dict[str, Tensor](), dict[str, Tensor]()
        for split in ("train", "test"):
            labels = torch.as_tensor(source.images(split).labels)[:n]
            pixels = torch.stack([to_pixels(source.load(split, row)) for row in range(len(labels))])
            self.x[split], self.y[split] = normalise(pixels, backbone.transform), labels

    @torch.no_grad()
    def tokens(self, images: Tensor, layers: list[int]) -> list[Tensor]:
        """Return the patch tokens (B, N, D) of some layers."""
        ask = {"indices": layers, "intermediates_only": True, "output_fmt": "NLC", "stop_early": True}
        found: list[Tensor] = self.backbone.forward_intermediates(images, **ask)
        return found

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.y["train"].max()) + 1


def open_demo() -> Any:
    return open_dataset(DEMO["data"])


def our_sweep(n: int, epochs: int) -> float:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = make_demo_store(Path(folder) / "s.zarr", limit=n, device="cpu")
        config = FitConfig(out=f"{folder}/run", heads=[*HEADS], lr=RATES, epochs=epochs, device="cpu")
        assert len(fit(store, config).results) == len(HEADS) * N_CELLS
    return time.perf_counter() - start


def plain_epoch(kind: str, n_maps: int, data: Images, tokens_of: Callable[[str, Tensor], Tensor]) -> None:
    """Train a head for one epoch, and score it."""
    head = PublishedHead(kind, data.backbone.embed_dim, data.n_classes, n_maps)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    order = torch.randperm(len(data.y["train"]))
    for rows in order.split(BATCH)[: len(order) // BATCH]:
        nn.functional.cross_entropy(head(tokens_of("train", rows)), data.y["train"][rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    head.eval()
    with torch.no_grad():
        for rows in torch.arange(len(data.y["test"])).split(BATCH):
            (head(tokens_of("test", rows)).argmax(1) == data.y["test"][rows]).double().mean().item()


class InTheLoop(nn.Module):
    """A frozen backbone and a head, as the reference's engine trains them."""

    def __init__(self, data: Images, kind: str) -> None:
        super().__init__()
        self.head, self._data, self._kind = nn.Linear(data.backbone.embed_dim, data.n_classes), data, kind

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C)."""
        (tokens,) = self._data.tokens(images, [LAYER])
        return self.head(tokens.mean(1) if self._kind == "linear" else tokens)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def backbone_in_the_loop(data: Images, epochs: int) -> float:
    def tokens_of(split: str, rows: Tensor) -> Tensor:
        return data.tokens(data.x[split][rows], [LAYER])[0]

    each = (seconds(partial(plain_epoch, *head, data, tokens_of)) for head in HEADS.values())
    return sum(each) * N_CELLS * epochs


def ram_script(data: Images, epochs: int) -> float:
    stored: dict[str, list[Tensor]] = {}

    def forward_once() -> None:
        for split, images in data.x.items():
            batches = [data.tokens(batch, [*range(N_LAYERS)]) for batch in images.split(BATCH)]
            stored[split] = [torch.cat(of_layer) for of_layer in zip(*batches, strict=True)]

    def tokens_of(split: str, rows: Tensor) -> Tensor:
        return stored[split][LAYER][rows]

    once = seconds(forward_once)
    each = [seconds(partial(plain_epoch, *head, data, tokens_of)) for head in HEADS.values()]
    return once + sum(each) * N_CELLS * epochs


def reference_engine(data: Images, epochs: int, path: Path | None) -> float:
    batches = {split: [*zip(data.x[split].split(BATCH), data.y[split].split(BATCH), strict=True)] for split in data.x}
    batches["train"] = batches["train"][: len(data.y["train"]) // BATCH]
    reference = Reference(path, batches)
    each = (seconds(partial(reference.epoch, InTheLoop(data, kind), kind, n)) for kind, n in HEADS.values())
    return sum(each) * N_CELLS * epochs


def measure(given: argparse.Namespace) -> Iterator[Row]:
    data, epochs = Images(given.images), given.epochs
    others: dict[str, Callable[[], float]] = {
        "the backbone in the loop": lambda: backbone_in_the_loop(data, epochs),
        "a plain RAM script": lambda: ram_script(data, epochs),
        "the reference's engine": lambda: reference_engine(data, epochs, given.reference),
    }
    reasons: dict[str, str] = {}
    for name, other in others.items():
        try:
            other()  # warms up
        except NotRunError as error:
            reasons[name] = str(error)
    our_sweep(BATCH, 1)
    ours, theirs = list[float](), {name: list[float]() for name in others if name not in reasons}
    for _ in range(given.repeats):
        ours.append(our_sweep(given.images, epochs))
        for name, times in theirs.items():
            times.append(others[name]())
    n_images = len(data.y["train"])
    work = f"a sweep of {len(HEADS) * N_CELLS} cells on {n_images:,} images, {epochs} epochs, against"
    for name in others:
        row = not_run(f"{work} {name}", reasons[name]) if name in reasons else None
        yield row or make_row(f"{work} {name}", ours, theirs[name])


def main() -> None:
    parser = make_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=5000, help="training images, and most test images")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--reference", type=Path, help="checkout of github.com/billpsomas/efficient-probing")
    given = parser.parse_args()
    report("sweep", measure(given), given.json)


if __name__ == "__main__":
    main()
