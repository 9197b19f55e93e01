"""Places to write stores in."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokenprobe.testing.store_kit import SUFFIXES, folder_in_memory

from .disk import watch_disk
from .s3 import Proxy, environment, make_bucket, moto_server


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Record writes, fsyncs and renames in order. Only a power cut could show a wrong order."""
    return watch_disk(monkeypatch)


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder in memory, if the system has one: fsync is free there."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(params=SUFFIXES, ids=["zarr", "hdf5"])
def suffix(request: pytest.FixtureRequest) -> str:
    """The suffix of a store's name, which decides its format."""
    return str(request.param)


@pytest.fixture
def place(ram: Path, suffix: str) -> Callable[[str], Path]:
    """Give a path for a store. All have one file name: an HDF5 store contains the name of its blocks."""

    def make(name: str) -> Path:
        (ram / name).mkdir()
        return ram / name / f"store{suffix}"

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of a given size in KiB."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        if (
            not shutil.which("mount")
            or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("a small disk cannot be mounted here: that takes root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of a real S3 server on this machine."""
    with moto_server() as port:
        yield port


@pytest.fixture
def proxy(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the S3 server. The environment points to it."""
    made = Proxy(s3_port)
    for name, value in environment(made.port).items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def bucket(s3_port: int, proxy: Proxy) -> str:
    """Address of an empty bucket."""
    return f"s3://{make_bucket(s3_port)}"
