"""Messages: who sees them, where they go, and how warnings of other libraries are shown."""

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

import huggingface_hub.utils
import pytest

import tokenprobe
from tokenprobe.runtime.console import bar_console, bars_of, shown, status

logger = logging.getLogger("tokenprobe.some.module")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich take stderr for a terminal of 40 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


@pytest.fixture
def in_a_notebook() -> Iterator[None]:
    """Show progress as a notebook would, and stop at the end."""
    tokenprobe.show_progress()
    yield
    tokenprobe.show_progress(False)


def speak() -> None:
    logger.debug("a detail")
    logger.info("a [bold]message")
    logger.warning("a problem")


def test_a_library_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    speak()
    assert capfd.readouterr() == ("", "")


def test_a_program_without_logging_hears_not_even_of_warnings() -> None:
    """Python prints warnings of a logger without any handler."""
    code = "import logging, tokenprobe; logging.getLogger('tokenprobe.some.module').warning('a problem')"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("", "")


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (-1, ["a problem"]),
        (0, ["a [bold]message", "a problem"]),
        (1, ["a detail", "a [bold]message", "a problem"]),
    ],
)
def test_a_command_shows_what_its_verbosity_asks_for_on_stderr(
    verbosity: int, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with shown(verbosity):
        speak()
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    if verbosity > 0:
        assert all(re.match(r"\d\d:\d\d:\d\d tokenprobe\.some\.module: ", line) for line in lines)
        lines = [line.partition(": ")[2] for line in lines]
    assert lines == expected
    speak()
    assert capsys.readouterr() == ("", ""), "after the command all is quiet again"


@pytest.mark.usefixtures("in_a_notebook")
def test_a_notebook_asks_once_and_may_stop(capsys: pytest.CaptureFixture[str]) -> None:
    tokenprobe.show_progress()
    speak()
    assert capsys.readouterr() == ("", "a [bold]message\na problem\n"), "once each, though it was asked twice"
    tokenprobe.show_progress(False)
    speak()
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("in_a_notebook")
def test_who_has_set_up_logging_sees_messages_once(capsys: pytest.CaptureFixture[str]) -> None:
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("own: %(message)s"))
    logging.getLogger().addHandler(own)
    try:
        logger.info("a message")
    finally:
        logging.getLogger().removeHandler(own)
    assert capsys.readouterr().err == "own: a message\n"


def test_long_lines_stay_whole_in_a_file_and_wrap_at_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line = "one two three four five six seven eight nine ten eleven"
    with shown():
        logger.info(line)
    assert capsys.readouterr().err == f"{line}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with shown():
        logger.info(line)
    lines = capsys.readouterr().err.splitlines()
    assert " ".join(each.rstrip() for each in lines) == line and max(map(len, lines)) <= 40


def test_a_name_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with shown():
        logger.info("left out train/\x1b[2Jcat\tdog.png")
    assert capsys.readouterr().err == "left out train/\\x1b[2Jcat\\tdog.png\n"


def test_warnings_of_others_become_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), shown():
        warnings.simplefilter("always")
        warnings.warn("palette images are odd", UserWarning, stacklevel=1)
        logging.getLogger("timm.models").warning("pretrained weights are old")
        logging.getLogger("timm.models").info("loading weights")
    assert capsys.readouterr().err == "UserWarning: palette images are odd\npretrained weights are old\n"


def test_a_verbose_command_shows_where_a_warning_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), shown(1):
        warnings.simplefilter("always")
        warnings.warn("palette images are odd", UserWarning, stacklevel=1)
        logging.getLogger("timm.models").info("loading weights")
    said = capsys.readouterr().err
    assert re.search(r"test_console\.py:\d+: UserWarning: palette images are odd\n", said)
    assert "timm.models: loading weights\n" in said


def test_a_library_that_prints_its_own_messages_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("some_hub")
    with shown():
        own = logging.StreamHandler()
        library.addHandler(own)
        logging.getLogger("some_hub.files").warning("no token was given")
        library.removeHandler(own)
    assert capsys.readouterr().err == "no token was given\n"


def test_all_is_as_before_when_a_command_ends_by_an_error() -> None:
    root, package = logging.getLogger(), logging.getLogger("tokenprobe")
    before = root.level, package.level, list(root.handlers), warnings.formatwarning, warnings.showwarning
    with pytest.raises(KeyboardInterrupt), shown(1):
        raise KeyboardInterrupt
    assert before == (root.level, package.level, root.handlers, warnings.formatwarning, warnings.showwarning)


@pytest.mark.usefixtures("terminal")
def test_bars_are_drawn_where_messages_are_shown_alone() -> None:
    assert bar_console() is None
    with shown():
        console = bar_console()
        assert console is not None and console.stderr
    with shown(-1):
        assert bar_console() is None, "quiet"


def test_there_is_no_bar_in_a_file_or_on_a_terminal_that_cannot_move(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown():
        assert bar_console() is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    with shown():
        assert bar_console() is None


def test_work_without_a_measure_has_a_line_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(), status("measuring"):
        pass
    assert capsys.readouterr() == ("", "measuring\n")


@pytest.mark.usefixtures("terminal")
def test_work_without_a_measure_has_a_spinner_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(), status("measuring"):
        pass
    shown_text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"\S measuring", shown_text) and not shown_text.startswith("measuring")


def hub_bar() -> None:
    """Draw a bar as the Hugging Face hub does for a file, though nobody looks."""
    for _ in huggingface_hub.utils.tqdm(range(3), desc="weights", disable=False):
        pass


def test_other_libraries_draw_bars_where_ours_are_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    hub_bar()
    assert "weights" in capfd.readouterr().err, "or this test would see nothing below"
    with bars_of(huggingface_hub.utils):
        hub_bar()
    assert capfd.readouterr().err == ""
    hub_bar()
    assert "weights" in capfd.readouterr().err, "all is as before"


@pytest.mark.usefixtures("terminal")
def test_other_libraries_draw_bars_on_a_terminal_unless_the_command_is_quiet(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with shown(), bars_of(huggingface_hub.utils):
        hub_bar()
    assert "weights" in capfd.readouterr().err
    with shown(-1), bars_of(huggingface_hub.utils):
        hub_bar()
    assert capfd.readouterr().err == ""


def test_bars_that_their_library_hides_stay_hidden() -> None:
    huggingface_hub.utils.disable_progress_bars()
    try:
        with bars_of(huggingface_hub.utils):
            pass
        assert huggingface_hub.utils.are_progress_bars_disabled()
    finally:
        huggingface_hub.utils.enable_progress_bars()
