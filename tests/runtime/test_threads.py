"""The command sets how long threads spin, before torch is loaded, in both of its forms; a user's choice wins."""

import os
import subprocess
import sys

import pytest

from tokenprobe.runtime.threads import OWN_CHOICES, SPIN

FORMS = {
    "the entry point": "from tokenprobe.cli import main\nmain(['--version'])",
    "python -m tokenprobe": (
        "import runpy\nsys.argv = ['probe', '--version']\n"
        "try:\n    runpy.run_module('tokenprobe', run_name='__main__')\nexcept SystemExit:\n    pass"
    ),
}
CHILD = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
BEFORE_AND_AFTER = """
import subprocess, sys
{form}
assert "torch" not in sys.modules
import torch
sys.stdout.flush()
subprocess.run([sys.executable, "-c", {child!r}], check=True)
"""


def told(form: str, **own: str) -> str:
    """Return the setting that a child of the command finds."""
    env = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES} | own
    code = BEFORE_AND_AFTER.format(form=FORMS[form], child=CHILD)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("form", FORMS)
def test_the_command_spins_briefly_and_its_children_inherit_that(form: str) -> None:
    assert told(form) == SPIN


@pytest.mark.parametrize(("own", "kept"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")])
def test_a_choice_of_the_user_stays(own: dict[str, str], kept: str) -> None:
    assert told("the entry point", **own) == kept


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("environment", "shown"), [({}, SPIN), ({"GOMP_SPINCOUNT": "9"}, "9")])
def test_the_openmp_library_of_torch_has_read_it(environment: dict[str, str], shown: str) -> None:
    """It prints its settings when it loads. Another library would print other names."""
    code = f"import sys\n{FORMS['the entry point']}\nimport torch"
    env = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES} | environment
    env["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch was built with another OpenMP library")
    assert f"GOMP_SPINCOUNT = '{shown}'" in done.stderr


def test_the_package_alone_changes_no_setting() -> None:
    code = f"import tokenprobe.probe.pipeline\n{CHILD}"
    env = {name: value for name, value in os.environ.items() if name not in OWN_CHOICES}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
