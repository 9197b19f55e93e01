"""Running a test package outside the tree, which inherits a suite."""

import os
import subprocess
import sys
from pathlib import Path

import tokenprobe


def run_suite(folder: Path, chosen: str, *options: str) -> tuple[str, list[str]]:
    """Run the chosen tests of `test_mine.py` in a process of its own; return its output and the lines of failures."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path(tokenprobe.__file__).parents[1])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *options]
    done = subprocess.run(
        [*command, "-k", chosen, "test_mine.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.stdout, [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
