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
    r"(?:^|\s)(?:probe|-m tokenprobe) ((?:extract|fit|merge) [^…`]*?)(?:&|')?$", PAGE.replace("\\\n", " "), re.MULTILINE
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
    assert len(SCRIPTS) == 5
    for script in SCRIPTS:
        if "merge" not in script:
            assert "--requeue" in script and "USR1@" in script and "scontrol requeue" in script


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_read_by_the_program(command: str) -> None:
    for variable, value in (("$SLURM_ARRAY_TASK_ID", "3"), ("$SLURM_PROCID", "3"), ("$SLURM_NTASKS", "4")):
        command = command.replace(variable, value)
    words = shlex.split(command, comments=True)
    try:
        call = program.parse(words)
    except UsageError as error:
        pytest.fail(f"{words}: {error}")
    assert not isinstance(call, int)


def test_the_page_shows_enough_commands() -> None:
    assert len(COMMANDS) >= 9


SRUN = """#!/bin/bash
for task in 0 1 2; do SLURM_PROCID=$task SLURM_NTASKS=3 "$@" || status=$?; done
exit ${status:-0}
"""


@pytest.mark.parametrize(("status", "last"), [(0, "merge dinov2.zarr"), (143, "requeue 7"), (2, "")])
def test_a_plain_srun_gives_each_task_its_shard(tmp_path: Path, status: int, last: str) -> None:
    """The script runs with stand-ins for Slurm and probe, which say what they are asked."""
    said, script = tmp_path / "said", next(script for script in SCRIPTS if "job-name=srun" in script)
    tools = {"srun": SRUN, "probe": f'#!/bin/bash\necho "$@" >> {said}\n[ "$1" = merge ] || exit {status}\n'}
    tools["scontrol"] = f'#!/bin/bash\necho "$@" >> {said}\n'
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    lines = [line for line in script.splitlines() if not line.startswith("source ")]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash"], input="\n".join(lines), text=True, env=environment, check=False)
    *shards, ending = [*said.read_text().splitlines(), *([] if last else [""])]
    assert [shard.rpartition(" ")[2] for shard in shards] == ["0/3", "1/3", "2/3"]
    assert all(shard.startswith("extract -m timm:vit_large") for shard in shards)
    assert ending == last
