"""Names of models as manifests keep them, and errors of other libraries in one line."""

import errno

import torch
from huggingface_hub import constants

HUB_FORMS = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that make timm and open_clip read a configuration from the Hugging Face hub or a folder."""


def portable(name: str) -> str:
    """Drop the parent folders of a local model's path: a manifest holds no absolute path."""
    return "local-dir:" + name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("local-dir:") else name


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, and the second if the first ends in ":"; or the error's class.

    An error of a full disk names no folder. Then the line names the folders that downloads go to.
    """
    if _is_of_a_full_disk(error):
        places = f"{constants.HF_HUB_CACHE!r} ($HF_HOME) and {torch.hub.get_dir()!r} ($TORCH_HOME)"
        return f"no space left on the disk; downloads go to {places}"
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def _is_of_a_full_disk(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is that of a full disk: libraries wrap it in their own."""
    while error is not None and getattr(error, "errno", None) != errno.ENOSPC:
        error = error.__cause__ or error.__context__
    return error is not None
