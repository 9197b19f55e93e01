"""Stage one: images in, every layer's tokens out, in a store."""

from pathlib import Path

from .config import ExtractConfig

__all__ = ["ExtractConfig", "extract"]


def extract(config: ExtractConfig) -> Path:
    """Run a frozen backbone once over a data set and store the tokens of its layers.

    A store that is already there is continued or extended; what it holds is not made again.

    Args:
        config: what to extract, from what, to where.

    Returns:
        The path of the store.

    Raises:
        TokenprobeError: something asked for cannot be had; the message says what to do.
    """
    from . import pipeline  # torch and timm load here, so that `probe --help` does without

    return pipeline.extract(config)
