"""Looking one ahead: the order of results, and on a GPU no read before a result is ready or its memory reused."""

from collections.abc import Iterator

import pytest
import torch

from tokenprobe.extract.ahead import beside_the_next, one_ahead, upload

CPU = torch.device("cpu")


def told(events: list[str], n_items: int, error: Exception | None = None) -> Iterator[int]:
    for index in range(n_items):
        events.append(f"make {index}")
        yield index
    if error is not None:
        raise error


def test_the_next_is_begun_before_one_is_handed_out() -> None:
    events: list[str] = []
    for item in one_ahead(told(events, 3)):
        events += [f"use {item}"]
    assert events == ["make 0", "make 1", "use 0", "make 2", "use 1", "use 2"]
    assert list(one_ahead([])) == [] and list(one_ahead([7])) == [7]


@pytest.mark.parametrize("n_items", [0, 1, 3])
def test_an_error_comes_after_all_that_was_made(n_items: int) -> None:
    events: list[str] = []
    items = one_ahead(told(events, n_items, ValueError("bad image")))
    assert [next(items) for _ in range(n_items)] == list(range(n_items))
    with pytest.raises(ValueError, match="bad image"):
        next(items)
    assert list(items) == []


def test_on_a_cpu_results_come_as_they_are_made() -> None:
    events: list[str] = []
    for item in beside_the_next(told(events, 2), CPU):
        events += [f"use {item}"]
    assert events == ["make 0", "use 0", "make 1", "use 1"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_results_are_whole_whatever_is_made_beside_them() -> None:
    """Long products before each result, and memory that the next result reuses at once."""
    device = torch.device("cuda", 0)
    matrix = torch.randn(4096, 4096, device=device)

    def results() -> Iterator[torch.Tensor]:
        for index in range(50):
            for _ in range(5):
                torch.mm(matrix, matrix)
            yield torch.full((1 << 24,), float(index), device=device)

    for index, result in enumerate(beside_the_next(results(), device)):
        later = result + 1  # not waited for here
        assert [float(value) for value in result.half().aminmax()] == [index, index]
        assert [float(value) for value in later.aminmax()] == [index + 1, index + 1]


def test_on_a_cpu_pixels_are_where_they_are_needed() -> None:
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert upload(pixels, CPU) is pixels


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pinned", [False, True])
def test_uploaded_pixels_are_whole_although_their_memory_is_used_again(pinned: bool) -> None:
    """The GPU runs long products meanwhile. Many copies are alive, each used after its source was overwritten."""
    device = torch.device("cuda", 0)
    matrix = torch.randn(4096, 4096, device=device)
    pixels = torch.empty(64, 3, 224, 224, dtype=torch.uint8, pin_memory=pinned)
    for index in range(50):
        for _ in range(5):
            torch.mm(matrix, matrix)
        pixels.fill_(index)
        there = upload(pixels, device)
        pixels.fill_(255)
        later = there.int()  # on the stream of the products: the copy is there before
        del there
        assert [int(value) for value in later.aminmax()] == [index, index]
