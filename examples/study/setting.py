"""What the scripts of the study share: the setting, stores, fits, comparisons, and the page that holds the tables."""

import argparse
import ast
import fcntl
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save_file

import tokenprobe
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.report.compare import Interval, Judged
from tokenprobe.probe.report.contents import Report, gather
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.run.results import Run
from tokenprobe.workflows.demo import WEIGHTS

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Study:
    """The setting of one script.

    Attributes:
        name: of the question.
        data: as for `probe extract`.
        model: as for `probe extract`.
        weights: safetensors file. Its metadata may hold the architecture of timm's VisionTransformer, mean and std.
        image_size: side of the backbone's images in pixels; none is the backbone's own.
        out: folder for stores and runs of all scripts. A second call continues there.
        page: Markdown file with the tables.
        n_train: training images.
        n_test: test images.
        seeds: number of seeds.
        epochs: of every fit.
        lr: base rates, one of which is selected per head.
        heads: heads to train.
    """

    name: str
    data: str
    model: str
    weights: Path
    image_size: Sequence[int]
    out: Path
    page: Path
    n_train: int
    n_test: int
    seeds: int
    epochs: int
    lr: Sequence[float]
    heads: Sequence[str]

    @property
    def data_name(self) -> str:
        """The data in one word: demo, or the name of a file."""
        return Path(self.data.partition(":")[2]).stem or self.data

    @property
    def label(self) -> str:
        """Data and weights in the names of stores, tables and figures."""
        return "demo" if self.data == "demo" else f"{self.data_name}-{self.weights.name.partition('.')[0]}"

    @property
    def folder(self) -> Path:
        """Folder for stores and runs of this script and setting: two scripts may run at a time."""
        return self.out / self.label / self.name

    def store(self, name: str, **changes: Any) -> Path:
        """Extract the last layer to a store of this name, unless it is there; keywords are fields of the config."""
        for config in self.extractions(name, **changes):
            extract(config)
        return self.folder / f"{name}.zarr"

    def extractions(self, name: str, **changes: Any) -> list[ExtractConfig]:
        """Return the settings of the two extractions: training images, perhaps in several views, and test images."""
        fields: dict[str, Any] = {"model": self.model, "model_arg": architecture(self.weights), "layers": "-1"}
        fields |= {"data": self.data, "checkpoint": self.weights, "image_size": self.image_size, "workers": 0}
        fields |= {"out": self.folder / f"{name}.zarr"}
        train = ExtractConfig(**fields | changes, split="train", limit=self.n_train)
        return [train, replace(train, split="test", limit=self.n_test, views=1)]

    def random_weights(self) -> Path:
        """Write weights as timm draws them, with the metadata of the pretrained ones, so that pixels are equal."""
        path = self.folder / "random.safetensors"
        if not path.exists():
            drawn = load_backbone(self.model, model_arg=architecture(self.weights), no_pretrained=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(drawn.module.state_dict(), path, metadata_of(self.weights))
        return path

    def fitting(self, name: str, **changes: Any) -> FitConfig:
        """Return the settings of a fit: name of the run, and other fields."""
        fields: dict[str, Any] = {"out": self.folder / "runs" / name, "heads": self.heads, "seeds": self.seeds}
        return FitConfig(**fields | {"epochs": self.epochs, "lr": self.lr, "val": 0.2, "device": "cpu"} | changes)

    def fit(self, name: str, stores: Mapping[str, Path], **changes: Any) -> Run:
        """Fit the heads on stores, which get names in the run."""
        return fit([f"{store}={path}" for store, path in stores.items()], self.fitting(name, **changes))

    def write(
        self, rows: Sequence[Sequence[str]], note: str, figure: Figure, more_rows: Sequence[Sequence[str]] = ()
    ) -> None:
        """Print the table, put it into the page, and draw the figure beside the page.

        Args:
            rows: the table; the first row has the names of the columns.
            note: what else one must know to read it.
            figure: the figure.
            more_rows: a second table below the first one.
        """
        rates = ", ".join(f"{rate:g}" for rate in self.lr)
        weights = f"`{self.weights.name}`" + (f" at {self.image_size[0]} pixels" if self.image_size else "")
        setting = (
            f"*{self.data_name}: {self.n_train:,} training and {self.n_test:,} test images, {weights}, "
            f"{self.seeds} seeds, {self.epochs} epochs, rates {rates}. {note}*"
        )
        picture = self.page.parent / "images" / f"study_{self.name}_{self.label}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=150)
        tables = "\n\n".join(map(markdown, filter(None, (rows, more_rows))))
        text = f"{tables}\n\n{setting}\n\n![{self.name}, {self.label}](images/{picture.name})"
        print(text)
        replace_marked(self.page, f"{self.name} {self.label}", text)


def ask(
    name: str, about: str | None, heads: Sequence[str], *, epochs: int = 10, lr: Sequence[float] = (30.0, 100.0)
) -> Study:
    """Read the command line of a script.

    Args:
        name: of the question.
        about: the script's docstring.
        heads: default heads.
        epochs: default number of epochs.
        lr: default rates.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    with as_file(files(tokenprobe) / "assets" / WEIGHTS) as weights:
        parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--model", default="timm:VisionTransformer")
    parser.add_argument("--image-size", type=int, nargs="*", default=[])
    parser.add_argument("--data", default="demo")
    parser.add_argument("-o", "--out", type=Path, default=Path("study"))
    parser.add_argument("--page", type=Path, default=DOCS / "study.md")
    parser.add_argument("--n-train", type=int, default=500)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--lr", type=float, nargs="+", default=list(lr))
    parser.add_argument("--heads", nargs="+", default=list(heads))
    return Study(name=name, **vars(parser.parse_args()))


def metadata_of(weights: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    with safe_open(weights, "np") as file:
        return dict(file.metadata() or {})


def architecture(weights: Path) -> dict[str, Any]:
    """Return the constructor's arguments that the metadata names, as "VisionTransformer(img_size=28, …)", or none."""
    if "arch" not in (metadata := metadata_of(weights)):
        return {}
    call = ast.parse(metadata["arch"], mode="eval").body
    assert isinstance(call, ast.Call)
    return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}


def judgements(*runs: Run) -> tuple[Report, dict[tuple[str, ...], Judged]]:
    """Return the report of runs, and which test images are right, by (backbone, spec, shots, layer)."""
    report = gather(runs)
    rows = {(row.source, row.head, row.shots, row.layer): row for row in report.summary.itertuples()}
    found = {key: rows[key] for key in report.judged}
    return report, {(row.backbone, row.spec, row.shots, row.layer): report.judged[k] for k, row in found.items()}


def folder_mib(folder: Path) -> float:
    """Return the size of a store on the disk in MiB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def points(found: Interval | None) -> str:
    """Return a difference in points of percent with its interval; bold if the interval does not hold 0."""
    if found is None:
        return "–"
    value, low, high = (f"{100 * each:+.1f}".replace("-", "−") for each in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]" if found.holds_zero else f"**{value}** [{low}, {high}]"


def spread(values: Any) -> str:
    """Return the mean ± standard deviation of fractions, in percent; the mean of a single one."""
    return f"{100 * values.mean():.1f}" + (f" ± {100 * values.std():.1f}" if len(values) > 1 else "")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; all columns but the first are numbers."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(rows[0]) - 1), *lines[1:]])


def replace_marked(page: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end -->`.

    Raises:
        ValueError: the page has no such markers.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    with page.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another script may write its table meanwhile
        found, n = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", file.read())
        if not n:
            raise ValueError(f"{page} has no place for this table; add the lines <!-- {name} --> and <!-- end -->")
        file.seek(0)
        file.truncate()
        file.write(found)


def panel(n: int = 1, **labels: str) -> tuple[Figure, Any]:
    """Return a figure in the style of the reports and its axes, or `n` of them; keywords such as xlabel label each."""
    with styled("paper"):
        figure = Figure(figsize=(4.5 if n == 1 else 7.0, 3.2), layout="constrained")
        axes = figure.subplots(1, n)
        for each in [axes] if n == 1 else axes:
            each.set(**labels)
            each.grid(alpha=0.3)
    return figure, axes
