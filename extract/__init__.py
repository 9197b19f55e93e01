"""Stage one: read a data set's images, run a frozen backbone once, and write every layer's tokens to a store.

`pipeline.py` is the story from top to bottom; only `ExtractConfig` loads at once.
"""

from pathlib import Path

from .config import ExtractConfig

__all__ = ["ExtractConfig", "describe_extraction", "extract"]


def extract(config: ExtractConfig) -> Path:
    """Run a frozen backbone once over a data set and store the tokens of its layers.

    A store that is already there is continued or extended; tokens that it holds are not made again.

    Args:
        config: model, data, store and the settings of the extraction.

    Returns:
        The path of the store.

    Raises:
        TokenprobeError: something asked for cannot be had; the message offers the way out.
    """
    from . import pipeline  # torch and timm load here, so that `probe --help` does without

    return pipeline.extract(config)


def describe_extraction(config: ExtractConfig) -> list[str]:
    """Return what an extraction would do, take and write, in lines of text, and do nothing.

    Args:
        config: of the extraction.

    Raises:
        TokenprobeError: something asked for cannot be had; the message offers the way out.
    """
    from . import pipeline

    return pipeline.describe_extraction(config)
