"""The model card of a head that is handed on: what it is, how good it is, and the commands to use it and to make it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCardData

from ..probe.batches.layer_set import LayerSet
from ..probe.grid.specs import HeadSpec
from ..probe.heads import find_pooling
from ..probe.report.compare import Interval
from ..probe.report.head_names import head_name
from ..probe.report.summary import FIGURES, shots_words
from ..probe.run.saved import SavedHead
from ..runtime.text import printable

CARD = "README.md"
REPO = "ORG/NAME"
"""Stands for the name on the hub, until the head is uploaded."""
METRICS = {"top1": "accuracy", "map": "mAP"}
"""The words of the hub for our figures."""
UNKNOWN = "unknown"
"""Licence of a card whose author gives none."""
MOST_CLASSES = 20


@dataclass(frozen=True)
class Evaluation:
    """The figure of a head on a test split, and what it was trained on.

    Attributes:
        dataset: short name of the data, such as "folder:imagenet".
        figure: "top1" or "map".
        test: the figure, as a fraction.
        interval: over test images, if it is known.
        n_test: number of test images, if it is known.
        shots: training images per class, a fraction, or "full".
        chosen: how the cell was chosen, in words.
        settings: of the training, such as "lars, base lr 10".
    """

    dataset: str
    figure: str
    test: float
    interval: Interval | None
    n_test: int | None
    shots: str
    chosen: str
    settings: str


def spec_of(about: SavedHead) -> HeadSpec:
    """Return the spec of a head that gives it again."""
    settings = {**find_pooling(about.head).defaults, **about.settings}
    return HeadSpec(about.head, tuple(settings.items()))


def head_card(
    about: SavedHead,
    n_params: int,
    evaluation: Evaluation | None,
    commands: Sequence[Sequence[str]],
    license: str | None,
) -> str:
    """Return the card: metadata for the hub, facts, and commands.

    Args:
        about: what the head's file says of it.
        n_params: number of its parameters.
        evaluation: its figure, or None if it has not been tested here.
        commands: arguments of the commands that make it again.
        license: identifier of its licence on the hub, or None if the author gives none.
    """
    spec, layers = spec_of(about), LayerSet(tuple(about.layers), about.stacked)
    title = f"{head_name(spec.name, spec.config)} on layer {layers.text} of {about.model}"
    lines = [
        "---",
        _metadata(title, evaluation, license or UNKNOWN),
        "---",
        "",
        f"# {printable(title)}",
        "",
        "A trained head for a frozen vision backbone. It reads the tokens of the backbone and gives",
        "one score per class.",
        "",
        *(f"* **{name}**: {text}" for name, text in _facts(about, spec, n_params, evaluation, license)),
        "",
        "## Use it",
        "",
        "```",
        f"probe predict hf:{REPO} --images new-photos",
        "```",
        "",
        "```python",
        "from tokenprobe.probe import load_head",
        "",
        f'head = load_head("hf:{REPO}")  # nn.Module: tokens (B, N, {about.dim}) -> logits (B, {len(about.classes)})',
        "```",
        "",
        "The backbone is not in this repository. `probe predict` loads it, and refuses other weights than those above.",
    ]
    if commands:
        lines += ["", "## Make it again", "", "```", *map(_line, commands), "```"]
    return "\n".join(lines) + "\n"


def _metadata(title: str, evaluation: Evaluation | None, license: str) -> str:
    results = None
    if evaluation is not None:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=evaluation.dataset,
                dataset_name=evaluation.dataset,
                metric_type=METRICS[evaluation.figure],
                metric_value=round(evaluation.test, 4),
            )
        ]
    data = ModelCardData(
        license=license,
        library_name="tokenprobe",
        pipeline_tag="image-classification",
        tags=["tokenprobe", "probing"],
        model_name=title,
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _facts(
    about: SavedHead, spec: HeadSpec, n_params: int, evaluation: Evaluation | None, license: str | None
) -> Iterator[tuple[str, str]]:
    yield "Backbone", f"{_code(about.model)}, weights with SHA-256 {_code(about.weights)}"
    yield "Layer", f"{_layers_words(about)}, counted from 0"
    yield "Tokens", f"{' + '.join(about.tokens)}, {about.dim} wide, on a grid of {about.grid[0]} × {about.grid[1]}"
    yield "Norm", "none" if about.norm is None else f"the final {about.norm['kind']} of the backbone"
    yield "Head", f"{head_name(spec.name, spec.config)}, {_code(spec.label)}, {n_params:,} parameters"
    yield "Images", ", ".join(f"{name} {_code(str(value))}" for name, value in about.transform.items())
    yield "Classes", f"{len(about.classes)}: {_classes_words(about.classes)}"
    if evaluation is None:
        yield "Accuracy", "not measured with tokenprobe"
    else:
        yield "Data", f"{_code(evaluation.dataset)}, {shots_words(evaluation.shots)}; {evaluation.settings}"
        yield "Accuracy", _figure_words(evaluation)
    yield "Licence", _code(license) if license else "not given by the author of this head"


def _figure_words(evaluation: Evaluation) -> str:
    images = "" if evaluation.n_test is None else f" on {evaluation.n_test:,} test images"
    found = evaluation.interval
    interval = (
        "no interval is known"
        if found is None
        else f"95 % interval {100 * found.low:.1f} to {100 * found.high:.1f}, by a bootstrap over test images"
    )
    return f"{FIGURES[evaluation.figure]} {100 * evaluation.test:.1f} %{images} ({interval}); {evaluation.chosen}"


def _layers_words(about: SavedHead) -> str:
    if len(about.layers) == 1:
        return str(about.layers[0])
    return f"{', '.join(map(str, about.layers))}, {'side by side' if about.stacked else 'their channels joined'}"


def _classes_words(classes: Sequence[str]) -> str:
    shown = ", ".join(_code(name) for name in classes[:MOST_CLASSES])
    return shown + (", … (all are in the file of the head)" if len(classes) > MOST_CLASSES else "")


def _code(text: str) -> str:
    """Return a foreign text as code of Markdown, which nothing in it ends."""
    return "`" + printable(text).replace("`", "'") + "`"


def _line(command: Sequence[str]) -> str:
    return printable(shlex.join(command)).replace("```", "'''")
