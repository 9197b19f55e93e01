"""The list of all heads for `probe heads`: each head's summary, settings and costs."""

from functools import cache
from math import prod
from textwrap import wrap
from typing import Any, get_args, get_type_hints

import torch

from ..batches.token_shape import TokenShape
from ..grid.specs import HEADS, find_head
from ..heads import POOLINGS, Head, build_pooling
from ..heads.flops import count_flops
from ..heads.own import installed_names
from ..solvers import SOLVERS, LinearSolver

SHAPE, N_CLASSES = TokenShape(grid=(14, 14), dim=768, n_prefix=1, embedding=768), 1000
"""Costs are counted for the tokens of a ViT-B/16 at 224 × 224 and the classes of ImageNet-1k."""
ABOUT = "with the classifier, for 14 × 14 tokens 768 wide (ViT-B/16 at 224 px) and 1,000 classes"
KINDS = {"trained": "Trained by steps", "fitted": "Fitted at once"}
WIDTH = 80

Json = dict[str, Any]


def head_facts(name: str) -> Json:
    """Return a head's description, settings and costs as values for JSON.

    Raises:
        InputError: no such head.
    """
    kind = find_head(name)
    own_settings = POOLINGS[name].settings if name in POOLINGS else SOLVERS[name].own_settings
    return {
        "head": name,
        "kind": "trained" if name in POOLINGS else "fitted",
        "summary": kind.summary,
        "source": kind.source,
        "settings": _settings(own_settings),
        **_costs(name),
    }


def list_heads() -> list[str]:
    """Return one line per head, in at most 80 columns: its parameters, its settings and their defaults."""
    lines = wrap(f"Parameters are counted {ABOUT}.", WIDTH)
    for kind, title in KINDS.items():
        lines += ["", f"{title}:", f"  {'head':<9}{'parameters':>10}  settings and defaults"]
        lines += [_line(facts) for facts in map(head_facts, HEADS) if facts["kind"] == kind]
    if names := installed_names():
        lines += ["", *wrap(f"From installed packages: {', '.join(names)}.", WIDTH)]
    return [*lines, "", "probe heads NAME describes one. probe fit takes it as --head NAME:key=value,…"]


def describe_head(name: str) -> list[str]:
    """Return the lines that describe one head, in at most 80 columns.

    Raises:
        InputError: no such head.
    """
    facts = head_facts(name)
    lines = [*wrap(f"{name}: {facts['summary']}", WIDTH, break_on_hyphens=False), "", f"source      {facts['source']}"]
    if facts["n_params"] is not None:
        parts = wrap(f"{facts['n_params']:,}, {ABOUT}", WIDTH - 12)
        lines += [f"parameters  {parts[0]}", *(f"{'':12}{part}" for part in parts[1:])]
        lines += [f"operations  {facts['flops_forward']:,} per image, of one forward pass"]
    lines += ["reads       " + " and ".join(facts["reads"]), ""]
    lines += ["settings" if facts["settings"] else "It has no settings."]
    for setting in facts["settings"]:
        lines += [f"  {setting['name']} ({setting['type']}, default {_text(setting['default'])})"]
        lines += wrap(setting["meaning"], WIDTH, initial_indent="    ", subsequent_indent="    ")
    given = ",".join(f"{setting['name']}={_text(setting['default'])}" for setting in facts["settings"][:2])
    return [*lines, "", f"example     probe fit STORE -o RUN --head {name}{':' * bool(given)}{given}"]


def _settings(own_settings: Any) -> list[Json]:
    """Return each setting's type, default and meaning, from the annotations of the dataclass."""
    hints = get_type_hints(type(own_settings), include_extras=True)
    return [
        {"name": name, "type": get_args(hint)[0].__name__, "default": getattr(own_settings, name), "meaning": meaning}
        for name, hint in hints.items()
        for meaning in get_args(hint)[1:]
    ]


@cache
def _costs(name: str) -> Json:
    """Return the arrays that a head reads by default, its parameters, and its operations per image."""
    is_solver = name in SOLVERS
    form = ("linear", {"pool": SOLVERS[name].defaults["pool"]}) if is_solver else (name, POOLINGS[name].defaults)
    with torch.device("meta"):  # no weights are drawn
        pooling = build_pooling(form[0], **SHAPE.of_pooling, **form[1])
        head = Head(pooling, N_CLASSES)
    if is_solver and not issubclass(SOLVERS[name], LinearSolver):
        return {"reads": list(pooling.inputs), "n_params": None, "flops_forward": None}
    n_tokens = sum(prod(SHAPE.row_shape(kind)[:-1]) for kind in pooling.inputs)
    forward = count_flops(head, n_tokens, SHAPE.dim).forward
    return {"reads": list(pooling.inputs), "n_params": head.n_params(), "flops_forward": forward}


def _line(facts: Json) -> str:
    """Return the line of one head, with as many settings as fit."""
    count = "none" if facts["n_params"] is None else f"{facts['n_params']:,}"
    line = f"  {facts['head']:<9}{count:>10} "
    for setting in facts["settings"]:
        text = f" {setting['name']}={_text(setting['default'])}"
        if len(line + text) > WIDTH - len(" …"):
            return f"{line} …"
        line += text
    return line if facts["settings"] else f"{line} none"


def _text(value: Any) -> str:
    """Return a value as a head spec writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
