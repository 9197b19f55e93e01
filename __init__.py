"""tokenprobe: judge frozen vision backbones by attentive and linear probing of stored tokens."""

import logging

__version__ = "0.3.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())


def show_progress(on: bool = True) -> None:
    """Show messages and progress on stderr, like the command. By default the library shows none.

    A program that sets up Python's `logging` itself does not need this: messages go to the logger "tokenprobe".

    Args:
        on: False turns messages off again.
    """
    from .runtime import console

    console.show_progress(on)
