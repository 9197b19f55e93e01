"""Stage one: read a data set's images, run a frozen backbone once, and write every layer's tokens to a store.

`pipeline.py` tells the story from top to bottom. Importing this package loads `ExtractConfig` alone.
"""

from pathlib import Path

from .config import ExtractConfig

__all__ = ["ExtractConfig", "describe_extraction", "extract"]


def extract(config: ExtractConfig) -> str | Path:
    """Run a frozen backbone once over a data set and store the tokens of its layers.

    An existing store is continued or extended. Tokens that it already holds are not computed again.

    Args:
        config: model, data, store and the settings of the extraction.

    Returns:
        The path of the store, or its address.

    Raises:
        TokenprobeError: the extraction is not possible as asked; the message offers the way out.
    """
    from . import pipeline  # loads torch and timm, which `probe --help` does not need

    return pipeline.extract(config)


def describe_extraction(config: ExtractConfig) -> list[str]:
    """Describe an extraction, its time and its size in lines of text, without running it.

    Args:
        config: settings of the extraction.

    Raises:
        TokenprobeError: the extraction is not possible as asked; the message offers the way out.
    """
    from . import pipeline

    return pipeline.describe_extraction(config)
