"""Servers that do not name the version of an object, or know no conditions: no write replaces an object unseen."""

import os
from collections.abc import Iterator

import pytest

from tokenprobe.errors import AddressError
from tokenprobe.store import object_requests
from tokenprobe.store.object_lock import ObjectLock
from tokenprobe.store.objects import Bucket, ObjectPath

from .loopback import Handler, Server
from .servers import az_environment, gs_environment, s3_environment

ENVIRONMENTS = {"s3": s3_environment, "gs": gs_environment, "az": az_environment}
NAMES = {"s3": "ETag", "gs": "x-goog-generation", "az": "ETag"}
"""The header by which a conditional write names a version."""
SAID = (
    "': the server does not name the version of an object, by an ETag or, at Google, a generation; without it, one "
    "writer could overwrite another unseen. Use a server that names it, or write the store to a folder and copy the "
    "folder; check the address, "
)


class Simple(Server):
    """Objects by path.

    Attributes:
        omitted: a header that no answer has.
        refuses: whether writes with a condition are refused as unknown.
        ignores: whether they are written whatever their condition is.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.omitted, self.refuses, self.ignores, self.n_written = "", False, False, 0
        super().__init__(SimpleHandler)


class SimpleHandler(Handler):
    server: Simple

    def answer(self) -> None:
        body, server, path = self.body(), self.server, self.path.partition("?")[0]
        found = server.objects.get(path)
        condition = self.headers.get("If-None-Match") or self.headers.get("If-Match")
        condition = condition or self.headers.get("x-goog-if-generation-match")
        current = (f'"{found[1]}"', str(found[1])) if found else ("none", "0")
        if self.command == "PUT" and condition and server.refuses:
            self.send(501)
        elif self.command == "PUT" and condition and not server.ignores and not self._holds(condition, current):
            self.send(412)
        elif self.command == "PUT":
            server.n_written += 1
            server.objects[path] = body, server.n_written
            self.send(200, b"", self._about(server.n_written))
        elif found is None:
            self.send(404)
        else:
            self.send(200, found[0], self._about(found[1]))

    def _holds(self, condition: str, current: tuple[str, str]) -> bool:
        return current[0] == "none" if condition == "*" else condition in current

    def _about(self, number: int) -> dict[str, str]:
        about = {"ETag": f'"{number}"', "x-goog-generation": str(number)}
        about["Last-Modified"] = "Sat, 28 Nov 2026 00:00:00 GMT"
        return {name: value for name, value in about.items() if name != self.server.omitted}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simple]:
    monkeypatch.setattr(object_requests, "N_RETRIES", 0)
    monkeypatch.setattr(object_requests, "PAUSE_SECONDS", 0)
    for name in [name for name in os.environ if name.startswith(object_requests.SERVICES)]:
        monkeypatch.delenv(name)
    made = Simple()
    for environment in ENVIRONMENTS.values():
        for name, value in environment(made.port).items():
            monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.mark.parametrize("scheme", ENVIRONMENTS)
def test_the_server_of_these_tests_knows_conditions(server: Simple, scheme: str) -> None:
    one = ObjectPath(Bucket(f"{scheme}://b"), "x")
    first = one.write_if(b"1", None)
    for version in (None, one.write_if(b"2", first) and first):
        with pytest.raises(FileExistsError):
            one.write_if(b"3", version)
    assert one.read_bytes() == b"2"


@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("scheme", ENVIRONMENTS)
def test_a_server_that_names_no_version_is_refused(server: Simple, scheme: str, ignores: bool) -> None:
    address = f"{scheme}://b/s.zarr"
    server.omitted, server.ignores = NAMES[scheme], ignores
    with pytest.raises(AddressError) as caught, ObjectLock(ObjectPath(Bucket(address))) as lock:
        lock._path.write_if(b"renewed", lock._version)
    assert str(caught.value).startswith(f"cannot use '{address}/.lock{SAID}")
    assert all(b"renewed" not in data for data, _ in server.objects.values())


def test_a_server_without_conditions_is_asked_before_each_write(
    server: Simple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    server.refuses = True
    one = ObjectPath(Bucket("s3://b"), "x")
    first = one.write_if(b"1", None)
    second = one.write_if(b"2", first)
    for version in (None, first):
        with pytest.raises(FileExistsError):
            one.write_if(b"3", version)
    assert one.read_with_version() == (b"2", second)


def test_a_server_that_refuses_conditions_is_named(server: Simple) -> None:
    server.refuses = True
    with pytest.raises(AddressError, match="501 Not Implemented"):
        ObjectPath(Bucket("s3://b"), "x").write_if(b"1", None)
