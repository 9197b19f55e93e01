"""Overlap on a GPU: it computes the next batch while this process converts, copies and writes the last one.

This process sleeps while it waits. CUDA's default keeps a core busy instead, and decoding needs all cores.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def beside_the_next(results: Iterable[T], device: torch.device) -> Iterator[T]:
    """Yield each result while a GPU computes the next; on the CPU, yield each result as it comes.

    The consumer's work on a result runs on a separate stream, which waits only for that result. The next result is
    requested only after that work, so no memory is reused too early.

    Args:
        results: iterator that launches one result on the current stream, without waiting for it.
        device: the device that computes the results.
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
    """Copy pixels to a GPU while it works, and wait only for the copy. The source memory may then be overwritten.

    Args:
        pixels: on the CPU; if they are not pinned, the copy is slower.
        device: for the CPU, the function returns the pixels unchanged.
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
    """Sleep until a stream has finished all its work."""
    done = torch.cuda.Event(blocking=True)
    done.record(stream)
    done.synchronize()


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after requesting the next one. If the next one raises an error, yield the item first."""
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
