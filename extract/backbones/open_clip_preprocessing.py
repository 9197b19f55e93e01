"""Preprocessing for open_clip's weights: from their tag, or from all tags of an architecture if they agree."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import InputError

DECIDING = ("mean", "std", "interpolation", "resize_mode")
N_NAMED = 3
"""Number of tags that a message names per kind."""


def preprocessing_of(architecture: str, tag: str, checkpoint: Path | None) -> dict[str, Any]:
    """Return open_clip's preprocessing settings.

    Args:
        architecture: a known architecture.
        tag: tag of the weights, or "" to use the settings that all published weights of the architecture share.
        checkpoint: file of the weights, or None if they are drawn.

    Raises:
        InputError: the published weights disagree, and the weights come from a checkpoint.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg

    tags = [tag] if tag else open_clip.list_pretrained_tags_by_model(architecture)
    kinds: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for each in tags:
        settings = asdict(PreprocessCfg()) | open_clip.get_pretrained_cfg(architecture, each)
        kinds.setdefault(tuple(settings[name] for name in DECIDING), {})[each] = settings
    if len(kinds) > 1 and checkpoint is not None:
        named = "; ".join(f"{_named([*of_kind])} by {_in_words(kind)}" for kind, of_kind in kinds.items())
        raise InputError(
            f"open_clip's weights of {architecture!r} differ in preprocessing ({named}), and checkpoint "
            f"{str(checkpoint)!r} does not state its own; name the weights that it matches, such as "
            f"open_clip:{architecture}/{tags[0]}"
        )
    only = next(iter(kinds.values()), {}) if len(kinds) == 1 else {}
    return next(iter(only.values()), asdict(PreprocessCfg()))


def activation_note(architecture: str, tag: str) -> list[str]:
    """Return a line if some weights of an architecture use another activation and no tag decides."""
    import open_clip

    tags = [] if tag else open_clip.list_pretrained_tags_by_model(architecture)
    quick = [each for each in tags if open_clip.get_pretrained_cfg(architecture, each).get("quick_gelu")]
    if not quick or open_clip.get_model_config(architecture).get("quick_gelu"):
        return []
    return [
        f"activation GELU used, the default of {architecture}; for QuickGELU, the activation of {_named(quick)}, write "
        f"open_clip:{architecture}/{quick[0]}"
    ]


def _named(tags: list[str]) -> str:
    return ", ".join(tags[:N_NAMED]) + (", …" if len(tags) > N_NAMED else "")


def _in_words(kind: tuple[Any, ...]) -> str:
    mean, std, interpolation, how = kind
    return f"mean {mean[0]:.3g}, deviation {std[0]:.3g}, {interpolation}, {how}"
