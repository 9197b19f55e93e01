"""Names of models as manifests keep them, and errors of other libraries in one line."""

HUB_FORMS = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes of names that make timm and open_clip read a configuration from the Hugging Face hub or a folder."""


def portable(name: str) -> str:
    """Drop the parent folders of a local model's path: a manifest holds no absolute path."""
    return "local-dir:" + name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("local-dir:") else name


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, and the second if the first ends in ":"; or the error's class."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first
