"""Names of models as manifests keep them, and other people's errors in one line."""

HUB_FORMS = ("hf-hub:", "hf_hub:", "local-dir:")
"""How names begin that timm and open_clip read a configuration for: on the Hugging Face hub, or in a folder."""


def portable(name: str) -> str:
    """Drop the folders of a local model's path: a manifest holds no absolute path."""
    return "local-dir:" + name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("local-dir:") else name


def reason(error: BaseException) -> str:
    """Return the first line of what an error says, with the second if that ends in ":"; its kind if it says nothing."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first
