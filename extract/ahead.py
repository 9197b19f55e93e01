"""A GPU works on the next batch while the tokens of the last one are converted, brought to the host and written."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def beside_the_next(results: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yield results that a GPU makes, each while it makes the next; on the CPU, yield them as they come.

    Args:
        results: made on the current stream as they are asked for: launched, not waited for.
        device: that makes them.

    What is done with a result runs on a stream of its own, which waits for that result alone. It is waited for before
    another is asked for: until then the memory of a result is not used again.
    """
    if device.type != "cuda":
        yield from results
        return
    stream = torch.cuda.Stream(device)
    for result, made in one_ahead((result, torch.cuda.current_stream(device).record_event()) for result in results):
        stream.wait_event(made)
        with torch.cuda.stream(stream):
            yield result
        stream.synchronize()
        del result


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield each item once the next has been asked for. An error in place of the next comes after it."""
    source, held = iter(items), list[T]()
    while True:
        try:
            item = next(source)
        except StopIteration:
            yield from held
            return
        except Exception:
            yield from held
            raise
        yield from held
        held = [item]
