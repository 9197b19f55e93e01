"""Lines about settings of a fit that some of its heads do not use."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...runtime.text import in_words, plural
from ..solvers import SOLVERS

STEPS = {"class_weights": "none", "noise": 0.0, "clip_grad": None}
"""Settings of training by steps that change a head's objective or its steps, with the value that leaves them alone."""


def unused_settings(settings: Mapping[str, Any], heads: Iterable[str]) -> Iterator[str]:
    """Yield one line per setting that solvers ignore, if it is on and there are solvers.

    Args:
        settings: of a fit, by field.
        heads: names of its heads in the registry.
    """
    solvers = [name for name in SOLVERS if name in set(heads)]
    for name, off in STEPS.items():
        value = settings.get(name, off)
        if solvers and value != off:
            flag = f"--{name.replace('_', '-')} {value if isinstance(value, str) else f'{value:g}'}"
            loss = f": {plural(len(solvers), 'it weighs', 'they weigh')} all images alike" * (name == "class_weights")
            yield f"{flag} has no effect on {in_words(solvers)}, fitted at once and not by steps{loss}"
