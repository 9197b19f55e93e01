"""Messages: where they go, and their nouns."""

import pytest

from tokenprobe.runtime.console import plural, say, shown


def test_a_message_goes_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("one")
    say("[bold]two")
    assert capsys.readouterr() == ("", "one\n[bold]two\n")


def test_a_quiet_command_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(-1):
        say("one")
    with shown(1):
        say("two")
    say("three")
    assert capsys.readouterr().err == "two\nthree\n"


@pytest.mark.parametrize(("n", "expected"), [(0, "images"), (1, "image"), (2, "images"), (1001, "images")])
def test_only_one_is_singular(n: int, expected: str) -> None:
    assert plural(n, "image") == expected
    assert plural(n, "class", "classes") == ("class" if n == 1 else "classes")
