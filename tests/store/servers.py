"""Servers of objects on this machine: S3's by moto, Azure's by Azurite, and Google's in `google_server.py`."""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from .loopback import HOST

SECRET = "SECRETSECRET"
AZURITE = "AZURITE_BLOB"
"""Variable that names the program azurite-blob, if it is not on PATH."""
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account of every Azurite, and its key, as documented."""


class Service(NamedTuple):
    """A server that runs.

    Attributes:
        scheme: of addresses.
        port: the server's.
        environment: given a port, the variables with which clients find a server there.
        query: what a request that makes a bucket needs.
        prefix: of the path of buckets.
        secret: what must reach no file and no message.
    """

    scheme: str
    port: int
    environment: Callable[[int], dict[str, str]]
    query: str = ""
    prefix: str = ""
    secret: str = SECRET

    def make_bucket(self) -> str:
        """Make a bucket of a new name; return its address."""
        name, server = f"b{uuid4().hex[:12]}", http.client.HTTPConnection(HOST, self.port)
        server.request("PUT", f"{self.prefix}/{name}{self.query}", headers={"Content-Length": "0"})
        assert server.getresponse().status in (200, 201)
        server.close()
        return f"{self.scheme}://{name}"


@contextmanager
def s3_service() -> Iterator[Service]:
    """Run moto's S3 server in a process of its own."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '{HOST}', '-p', '{port}'])"
    with running([sys.executable, "-c", code], port):
        yield Service("s3", port, s3_environment)


@contextmanager
def gs_service() -> Iterator[Service]:
    """Run `google_server.py` in a process of its own."""
    port = free_port()
    with running([sys.executable, "-m", "tests.store.google_server", str(port)], port):
        yield Service("gs", port, gs_environment)


@contextmanager
def az_service() -> Iterator[Service]:
    """Run Azurite, Microsoft's emulator, or skip the test."""
    program = os.environ.get(AZURITE) or shutil.which("azurite-blob")
    if not program:
        pytest.skip(f"no azurite-blob on PATH, nor in ${AZURITE}: npm install -g azurite")
    port = free_port()
    quiet = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
    with running([program, *quiet, "--blobPort", str(port)], port):
        query = f"?restype=container&{shared_access()}"
        yield Service("az", port, az_environment, query, f"/{ACCOUNT}", ACCOUNT_KEY)


SERVICES = {"s3": s3_service, "gs": gs_service, "az": az_service}
on_every_service = pytest.mark.parametrize("service", SERVICES, indirect=True)


def s3_environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_REGION": "us-east-1",
    }


def gs_environment(port: int) -> dict[str, str]:
    """`disable_oauth` is object_store's word for a server that asks for no token."""
    account = {"client_email": "me@project", "private_key_id": "1", "private_key": SECRET, "disable_oauth": True}
    return {
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account | {"gcs_base_url": f"http://{HOST}:{port}"}),
        "GOOGLE_BASE_URL": f"http://{HOST}:{port}",
    }


def az_environment(port: int) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY,
        "AZURE_STORAGE_ENDPOINT": f"http://{HOST}:{port}/{ACCOUNT}",
    }


def shared_access() -> str:
    """Return a query that grants everything (Azure's account SAS), by the documented string to sign."""
    fields = {"sp": "rwdlac", "ss": "b", "srt": "sco", "st": "", "se": "2099-01-01T00:00:00Z", "sip": "", "spr": ""}
    text = "\n".join([ACCOUNT, *fields.values(), "2020-10-02", ""]).encode()
    signature = hmac.new(base64.b64decode(ACCOUNT_KEY), text, hashlib.sha256).digest()
    given = {name: value for name, value in fields.items() if value}
    return urlencode(given | {"sv": "2020-10-02", "sig": base64.b64encode(signature).decode()})


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """Run a server in a process of its own, from the moment it listens."""
    root = Path(__file__).parents[2]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            time.sleep(0.05)
            with socket.socket() as one:
                if one.connect_ex((HOST, port)) == 0:
                    break
        yield
    finally:
        server.kill()
        server.wait()
