"""The script that kills commands, in short: some kills of an extraction in each format."""

import re
import subprocess
import sys
from pathlib import Path

from .kills import FORMATS, scenarios

N_KILLS = 4


def test_killed_extractions_lose_nothing() -> None:
    script = Path(__file__).with_name("kills.py")
    command = [sys.executable, str(script), "--kills", str(N_KILLS), "--only", "extract"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{N_KILLS} kills of {len(FORMATS)} commands with seed 0: 0 lost something"
    shown = re.compile(r"extract \.\w+: killed after [\d.]+ of [\d.]+ s, \d+ finished")
    assert len([line for line in lines if shown.fullmatch(line)]) == N_KILLS


def test_the_script_kills_every_command_that_writes() -> None:
    commands = {scenario.words[0] for scenario in scenarios()}
    assert commands == {"extract", "fit", "verify", "export", "predict"}
