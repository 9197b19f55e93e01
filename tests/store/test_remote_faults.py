"""Servers that fail, writers that die, and several writers at once: every store ends with the bytes of a local one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Lock, Thread

import numpy as np
import pytest

from tokenprobe.errors import AddressError, LockedError, StoreError
from tokenprobe.store import object_requests, objects, open_block_writer, open_store, open_writer
from tokenprobe.store.verify import verify
from tokenprobe.testing.store_kit import Contents, blocks, declare, fill, make_contents, write

from .proxy import Proxy
from .servers import Service, on_every_service
from .test_remote import tree_at, tree_of

pytestmark = pytest.mark.slow
FAULTS = ("500", "stall", "cut", "slow", "lost")
WRITER = """
import sys
from tests.store.test_remote_faults import some
from tokenprobe.testing.store_kit import write
write(sys.argv[1], some())
"""


def some() -> Contents:
    """Three blocks of two layers, one view."""
    return make_contents().part(
        {"train": {"layer_00": ["mean", "patch"], "layer_03": ["mean"]}}, views=1, augmentation=None
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a request after a second, not after minutes."""
    monkeypatch.setattr(object_requests, "TIMEOUT", timedelta(seconds=1))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("local") / "s", some())


def spoil(proxy: Proxy, faults: tuple[str, ...], seed: int, share: float = 0.08) -> None:
    """Let a share of the requests fail; a body is cut only where there is one."""
    rng, lock = random.Random(seed), Lock()

    def fault(method: str, path: str) -> str | None:
        with lock:
            return rng.choice(faults) if rng.random() < share else None

    proxy.fault = fault


@pytest.mark.parametrize(("service", "seed"), [("s3", 0), ("s3", 1), ("gs", 0), ("az", 0)], indirect=["service"])
def test_a_store_is_written_and_read_through_failing_requests(
    bucket: str, proxy: Proxy, quick: None, local: Path, seed: int
) -> None:
    address = f"{bucket}/s.zarr"
    spoil(proxy, FAULTS, seed)
    write(address, some())
    store, wanted = open_store(address)["train"], open_store(local)["train"]
    for layer, kind in ((0, "patch"), (3, "mean")):
        np.testing.assert_array_equal(store.tokens(layer, kind=kind), wanted.tokens(layer, kind=kind))
    assert verify(address) == []
    proxy.fault = lambda method, path: None
    assert tree_at(address) == tree_of(local)


@on_every_service
def test_a_server_that_stays_down_is_an_error_and_finished_blocks_stay(
    service: Service, bucket: str, proxy: Proxy, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_requests, "N_RETRIES", 1)
    monkeypatch.setattr(object_requests, "PAUSE_SECONDS", 0.01)
    address, contents = f"{bucket}/s.zarr", some()
    proxy.fault = lambda method, path: "500" if method == "PUT" and "patch/c.0.2" in path else None
    with pytest.raises(
        AddressError, match=r"^cannot use '\w+://.*c\.0\.2\.0\.0': .*500.*; check the address"
    ) as caught:
        write(address, contents)
    assert service.secret not in str(caught.value)
    before = len(tree_at(address))
    proxy.fault = lambda method, path: None
    proxy.asked.clear()
    write(address, contents)
    assert tree_at(address) == tree_of(local)
    written = {path.rpartition("/")[2] for method, path in proxy.asked if method == "PUT" and "/c." in path}
    assert before > 5 and "c.0.0.0.0" not in written


@pytest.mark.parametrize(
    ("service", "n_requests"), [("s3", 15), ("s3", 50), ("gs", 50), ("az", 50)], indirect=["service"]
)
def test_a_killed_writer_is_followed_by_another(bucket: str, proxy: Proxy, local: Path, n_requests: int) -> None:
    root, address = Path(__file__).parents[2], f"{bucket}/s.zarr"
    code, path = [sys.executable, "-c", WRITER, address], [str(root), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(code, cwd=root, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)}) as one:
        while one.poll() is None and len(proxy.asked) < n_requests:
            time.sleep(0.002)
        one.send_signal(signal.SIGKILL)
    assert one.returncode == -signal.SIGKILL
    write(address, some())
    assert tree_at(address) == tree_of(local)
    assert verify(address) == []


@on_every_service
def test_of_two_leaders_at_once_one_writes(bucket: str, local: Path) -> None:
    address, contents = f"{bucket}/s.zarr", some()
    ended: list[object] = []

    def lead() -> None:
        try:
            ended.append(write(address, contents))
        except LockedError as error:
            ended.append(error)

    threads = [Thread(target=lead) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(map(type, ended)) in ({LockedError, str}, {str})
    assert tree_at(address) == tree_of(local) and verify(address) == []


@on_every_service
def test_two_leaders_whose_locks_fail_do_no_harm(bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first writes. The first stops; the store is whole."""
    monkeypatch.setattr("tokenprobe.store.object_lock.QUIET", timedelta(0))
    address, contents = f"{bucket}/s.zarr", some()
    with open_writer(address, contents.manifest) as writer:
        declare(writer, contents)
        fill(writer, contents, blocks(contents.manifest)[:1])
        writer.flush()
        write(address, contents)
        fill(writer, contents, blocks(contents.manifest)[1:])
        with pytest.raises(LockedError, match="another process began to lead"):
            writer.seal()
    write(address, contents)
    assert tree_at(address) == tree_of(local) and verify(address) == []


@on_every_service
def test_writers_of_other_bytes_at_once_leave_a_store_that_is_intact(bucket: str) -> None:
    address, contents = f"{bucket}/s.zarr", some()
    with open_writer(address, contents.manifest) as leader:
        declare(leader, contents)

        def help_out(number: int) -> None:
            other = {name: values + number for name, values in contents.stored.items()}
            with open_block_writer(address, contents.manifest) as writer:
                fill(writer, Contents(contents.manifest, other, {}), blocks(contents.manifest))
                writer.flush()

        threads = [Thread(target=help_out, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert leader.seal()
    assert verify(address) == []
    assert not any(name.startswith("journal.d") for name in objects.Bucket(address).sizes())
    read = open_store(address)["train"].tokens(3, kind="mean")
    differences = read - contents.stored["train/layer_03/mean"][0]
    blocks_of = [np.unique(np.round(differences[start : start + 4], 3)) for start in range(0, len(read), 4)]
    assert all(len(values) == 1 for values in blocks_of)


def test_a_body_that_is_too_short_is_an_error(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_requests, "N_RETRIES", 1)
    address = write(f"{bucket}/s.zarr", some())
    split = open_store(address)["train"]
    proxy.fault = lambda method, path: "cut" if "patch/c." in path else None
    with pytest.raises(StoreError, match=r"^cannot read block file '\w+://.*patch/c\.0\.\d\.0\.0'"):
        split.tokens(0)


@pytest.fixture(autouse=True)
def _no_fault_at_the_end(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.fault = lambda method, path: None
