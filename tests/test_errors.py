"""What callers can catch, and what a mistyped name is answered."""

import pytest

from tokenprobe.errors import (
    InputError,
    LockedError,
    MissingError,
    NoSpaceError,
    RunError,
    StoreError,
    TokenprobeError,
    unknown_name,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InputError, ValueError),
        (MissingError, FileNotFoundError),
        (StoreError, ValueError),
        (RunError, ValueError),
        (LockedError, BlockingIOError),
        (NoSpaceError, OSError),
    ],
)
def test_every_error_is_ours_and_also_the_builtin_a_caller_expects(
    error: type[Exception], builtin: type[Exception]
) -> None:
    for caught in (TokenprobeError, builtin):
        with pytest.raises(caught) as raised:
            raise error("one line")
        assert str(raised.value) == "one line"


def test_an_unknown_name_lists_the_known_ones_nearest_first() -> None:
    error = unknown_name("optimizer", "adamv", ["sgd", "lars", "adamw", "adam"])
    assert isinstance(error, InputError)
    assert str(error) in {
        "unknown optimizer 'adamv'; known: adamw, adam, sgd, lars",
        "unknown optimizer 'adamv'; known: adam, adamw, sgd, lars",
    }


def test_a_long_list_of_known_names_is_cut_after_the_nearest_and_counted() -> None:
    names = [f"other{i}" for i in range(20)] + ["vit_base"]
    listed = str(unknown_name("model", "vit_bse", names)).split("known: ")[1]
    assert listed == "vit_base, " + ", ".join(names[:11]) + ", … (21 in all)"


def test_without_any_known_name_it_says_none() -> None:
    assert str(unknown_name("split", "train", iter(()))) == "unknown split 'train'; known: none"
