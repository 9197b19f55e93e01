"""A preset: the settings of a published protocol, where they come from, and what differs from the original."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from ...errors import unknown_name

PRESETS = (
    "ep", "mae-linear", "dinov2-linear", "dinov2-knn", "dinov2-logreg", "vjepa2", "capi", "aim", "alf", "clip-logreg",
    "few-labels",
)  # fmt: skip
"""Names of the presets, in the order of the list; each is a file NAME.yaml beside this one."""


@dataclass(frozen=True)
class Preset:
    """A published protocol.

    Attributes:
        name: the name that `--preset` takes.
        summary: one sentence about the protocol.
        source: its paper and its code.
        settings: values by field of `FitConfig`. Every other setting keeps its default.
        deviations: differences from the original, in whole sentences.
    """

    name: str
    summary: str
    source: str
    settings: Mapping[str, Any]
    deviations: tuple[str, ...]


@cache
def load_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        InputError: no preset has that name.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    import yaml  # only a preset needs it

    content = yaml.safe_load(files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(
        name,
        content["summary"],
        content["source"],
        MappingProxyType(content["settings"]),
        tuple(content["deviations"]),
    )


def list_presets() -> list[str]:
    """Return one line per preset: its name and summary."""
    return [f"{name:<15}{load_preset(name).summary}" for name in PRESETS]


def describe_preset(name: str) -> list[str]:
    """Return a preset in lines of text: its source, the settings that it gives, and its deviations.

    Raises:
        InputError: no preset has that name.
    """
    preset = load_preset(name)
    lines = [f"{name}: {preset.summary}", f"source: {preset.source}", "", "settings:"]
    width = max(map(len, preset.settings))
    lines += [f"  {key:<{width}}  {_text(value)}" for key, value in preset.settings.items()]
    return [*lines, "", "deviations from the original:", *(f"  - {each}" for each in preset.deviations)]


def preset_facts(name: str) -> dict[str, Any]:
    """Return a preset as plain values, for JSON.

    Raises:
        InputError: no preset has that name.
    """
    preset = load_preset(name)
    return {
        "name": preset.name,
        "summary": preset.summary,
        "source": preset.source,
        "settings": dict(preset.settings),
        "deviations": list(preset.deviations),
    }


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
