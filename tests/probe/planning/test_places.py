"""Where rows are kept, against cases written by hand."""

import pytest

from tokenprobe.probe.batches.data import SUBSETS, TEST, TRAIN, VAL
from tokenprobe.probe.planning.places import choose_places

SIZES = {TRAIN: 100, SUBSETS: 10, VAL: 5, TEST: 20}


@pytest.mark.parametrize("cache", ["gpu", "ram", "disk"])
def test_what_is_asked_for_is_done(cache: str) -> None:
    assert choose_places(cache, SIZES, {"ram": 0}) == dict.fromkeys(SIZES, cache)


def test_all_goes_to_the_first_place_with_room_for_all() -> None:
    assert set(choose_places("auto", SIZES, {"gpu": 126, "ram": 1000}).values()) == {"gpu"}
    assert set(choose_places("auto", SIZES, {"gpu": 125, "ram": 126}).values()) == {"ram"}


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        ({"ram": 125}, {TEST: "ram", VAL: "ram", SUBSETS: "ram", TRAIN: "disk"}),
        ({"ram": 20}, {TEST: "disk", VAL: "ram", SUBSETS: "ram", TRAIN: "disk"}),
        ({"gpu": 22, "ram": 50}, {TEST: "gpu", VAL: "ram", SUBSETS: "ram", TRAIN: "disk"}),
        ({"gpu": 31, "ram": 101}, {TEST: "gpu", VAL: "gpu", SUBSETS: "ram", TRAIN: "disk"}),
        ({"ram": 0}, dict.fromkeys(SIZES, "disk")),
    ],
)
def test_else_what_is_read_most_often_comes_first(room: dict[str, int], expected: dict[str, str]) -> None:
    assert choose_places("auto", SIZES, room) == expected


def test_subsets_alone_are_not_rows_of_anything_else() -> None:
    assert choose_places("auto", {SUBSETS: 10, TEST: 5}, {"ram": 15}) == {TEST: "ram", SUBSETS: "disk"}
