"""Places to write stores in."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest

from tokenprobe.store.objects import Bucket, ObjectPath
from tokenprobe.testing.store_kit import SUFFIXES, folder_in_memory

from .disk import watch_disk
from .proxy import Proxy
from .servers import SERVICES, Service


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
def services() -> Iterator[Callable[[str], Service]]:
    """Give a running server of objects by its scheme; each is started once."""
    with ExitStack() as stack:
        yield cache(lambda scheme: stack.enter_context(SERVICES[scheme]()))


@pytest.fixture
def service(request: pytest.FixtureRequest, services: Callable[[str], Service]) -> Service:
    """The server of a test: S3's, or those of its `@pytest.mark.parametrize("service", …, indirect=True)`."""
    return services(getattr(request, "param", "s3"))


@pytest.fixture
def proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server. The environment points to it."""
    made = Proxy(service.port)
    for name, value in service.environment(made.port).items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def bucket(service: Service, proxy: Proxy) -> str:
    """Address of an empty bucket."""
    return service.make_bucket()


@pytest.fixture(params=["memory", *SERVICES])
def objects(
    request: pytest.FixtureRequest, services: Callable[[str], Service], monkeypatch: pytest.MonkeyPatch
) -> ObjectPath:
    """An empty place for objects: in memory, and on every server."""
    if request.param == "memory":
        return ObjectPath(Bucket(f"memory://{uuid4().hex}"))
    service = services(request.param)
    for name, value in service.environment(service.port).items():
        monkeypatch.setenv(name, value)
    return ObjectPath(Bucket(f"{service.make_bucket()}/a b"))
