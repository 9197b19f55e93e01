"""The wheel holds the package and nothing else, and the source archive holds the whole tree.

`.ci/check-dist` installs the wheel and uses it from another folder.
"""

import shutil
import subprocess
import sys
import tarfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest

import tokenprobe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
NOT_THE_PACKAGE = {".ci", ".github", "benchmarks", "docs", "examples", "tests"}
"""Top folders of the tree. Every other one is a part of the package."""
INFO = f"tokenprobe-{tokenprobe.__version__}.dist-info"


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Every file that git tracks, or would if it were added."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a clone has a list of its files; this is no clone")
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive of a copy of the tree, the wheel made from the archive."""
    folder = tmp_path_factory.mktemp("dist")
    for name in tracked:
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "tree")]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    """The content of every file in the wheel."""
    with ZipFile(built / f"tokenprobe-{tokenprobe.__version__}-py3-none-any.whl") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: dict[str, bytes], tracked: set[str]) -> None:
    folders = {name.partition("/")[0] for name in tracked if "/" in name} - NOT_THE_PACKAGE
    package = {name for name in tracked if name.partition("/")[0] in folders}
    package |= {name for name in tracked if "/" not in name and name.endswith((".py", "py.typed"))}
    assert {"py.typed", "assets/fashion_mnist_7k.npz", "probe/presets/ep.yaml", "probe/report/html/page.html"} < package
    assert {name for name in wheel if not name.startswith(INFO)} == {f"tokenprobe/{name}" for name in package}
    for name in package:
        assert wheel[f"tokenprobe/{name}"] == (ROOT / name).read_bytes(), name


def test_the_wheel_says_what_it_is(wheel: dict[str, bytes]) -> None:
    about: Message = message_from_bytes(wheel[f"{INFO}/METADATA"])
    assert (about["Name"], about["Version"], about["Requires-Python"]) == (
        "tokenprobe",
        tokenprobe.__version__,
        ">=3.11",
    )
    assert about["License-Expression"] == "Apache-2.0 AND MIT"
    for name in ("LICENSE", "assets/LICENSE-fashion-mnist"):
        assert wheel[f"{INFO}/licenses/{name}"] == (ROOT / name).read_bytes()
    assert b"probe = tokenprobe.cli:main" in wheel[f"{INFO}/entry_points.txt"]
    needed = about.get_all("Requires-Dist", [])
    assert any(line.startswith("torch>=") for line in needed)
    assert not any(line.startswith("pytest") and "extra" not in line for line in needed)


def test_the_source_archive_is_the_whole_tree(built: Path, tracked: set[str]) -> None:
    top = f"tokenprobe-{tokenprobe.__version__}"
    with tarfile.open(built / f"{top}.tar.gz") as opened:
        names = {member.name.removeprefix(f"{top}/") for member in opened if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("tokenprobe.egg-info/")}
    assert names - made == tracked
