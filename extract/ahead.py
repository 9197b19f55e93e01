"""Overlap on a GPU: it works on the next batch while the tokens of the last are converted, copied and written.

This process sleeps while it waits. By default it would keep a core busy, and decoding needs them all.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def beside_the_next(results: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yield each result while a GPU makes the next; on the CPU, yield them as they come.

    The consumer's work on a result runs on a stream of its own, which waits for that result alone. The next result is
    asked for only when that work is done, so no memory is used again before.

    Args:
        results: an iterator that launches one result on the current stream, and does not wait for it.
        device: that makes the results.
    """
    if device.type != "cuda":
        yield from results
        return
    stream = torch.cuda.Stream(device)
    for result, made in one_ahead((result, torch.cuda.current_stream(device).record_event()) for result in results):
        stream.wait_event(made)
        with torch.cuda.stream(stream):
            yield result
        wait_for(stream)
        del result


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """Copy pixels to a GPU beside its work, and wait for that alone: afterwards their memory may be overwritten.

    Args:
        pixels: on the CPU; if they are not pinned, the copy is slower.
        device: on the CPU, pixels are returned as they are.
    """
    if device.type != "cuda":
        return pixels
    stream = torch.cuda.Stream(device)  # one of a few that torch keeps
    with torch.cuda.stream(stream):
        there = pixels.to(device, non_blocking=True)
    wait_for(stream)
    there.record_stream(torch.cuda.current_stream(device))
    return there


def wait_for(stream: torch.cuda.Stream) -> None:
    """Sleep until all that a stream was given is done."""
    done = torch.cuda.Event(blocking=True)
    done.record(stream)
    done.synchronize()


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield each item once the next has been asked for. An error in place of the next is raised after the item."""
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
