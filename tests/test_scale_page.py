"""The page on many machines: its scripts are valid, and its commands have the flags that the program has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tokenprobe.commands import program
from tokenprobe.runtime.flags import UsageError

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
SCRIPTS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(
    r"(?:^|\s)(?:probe|-m tokenprobe) ((?:extract|fit|merge) [^…`]*?)(?:&)?$", PAGE.replace("\\\n", " "), re.MULTILINE
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: re.findall(r"job-name=(\w+)", script)[0])
def test_scripts_are_valid(script: str) -> None:
    assert script.startswith("#!/bin/bash\n#SBATCH ")
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_script_that_is_not_valid_is_found() -> None:
    done = subprocess.run(["bash", "-n"], input="if true; then", text=True, capture_output=True, check=False)
    assert done.returncode != 0


def test_jobs_that_may_be_stopped_are_given_back_to_the_queue() -> None:
    assert len(SCRIPTS) == 4
    for script in SCRIPTS:
        if "merge" not in script:
            assert "--requeue" in script and "USR1@" in script and "scontrol requeue" in script


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_read_by_the_program(command: str) -> None:
    words = [word.replace("$SLURM_ARRAY_TASK_ID", "3") for word in shlex.split(command, comments=True)]
    try:
        call = program.parse(words)
    except UsageError as error:
        pytest.fail(f"{words}: {error}")
    assert not isinstance(call, int)


def test_the_page_shows_enough_commands() -> None:
    assert len(COMMANDS) >= 9
