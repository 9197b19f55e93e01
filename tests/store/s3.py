"""A real S3 server on this machine, moto's, in a process of its own, and a proxy before it that can fail."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from uuid import uuid4

HOST = "127.0.0.1"
STALLED_SECONDS = 1.5
Fault = Callable[[str, str], str | None]


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def moto_server() -> Iterator[int]:
    """Run moto's S3 server; yield its port."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '{HOST}', '-p', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            time.sleep(0.1)
            with socket.socket() as one:
                if one.connect_ex((HOST, port)) == 0:
                    break
        yield port
    finally:
        server.kill()
        server.wait()


class Proxy:
    """Forwards requests to a server, and spoils some of them.

    Attributes:
        fault: given method and path of a request, its fault: "500", "stall" (no answer), "cut" (half of the body),
            "slow" (the body comes in small pieces), "lost" (the server does it, but the answer never comes) or None.
        asked: (method, path) of every request.
        n_bytes: bytes of all bodies sent to the client.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        self.fault: Fault = lambda method, path: None
        self.asked: list[tuple[str, str]] = []
        self.n_bytes = 0
        self.lock = Lock()
        self.server = _Server((HOST, 0), _Handler)
        self.server.proxy = self
        self.port = int(self.server.server_port)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: Proxy

    def handle_error(self, *_: object) -> None:
        """A client that gave up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy.lock:
            proxy.asked.append((self.command, self.path))
            fault = proxy.fault(self.command, self.path)
        if fault == "500":
            self._send(500, {}, b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "stall":
            time.sleep(STALLED_SECONDS)
        else:
            status, headers, content = self._ask(proxy.behind, body)
        if fault in ("stall", "lost"):
            self.close_connection = True
            return
        self._send(status, headers, content, fault)

    def _ask(self, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection(HOST, port, timeout=60)
        server.request(self.command, self.path, body, dict(self.headers))
        found = server.getresponse()
        content = found.read()
        server.close()
        return found.status, dict(found.getheaders()), content

    def _send(self, status: int, headers: dict[str, str], content: bytes, fault: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        with self.server.proxy.lock:
            self.server.proxy.n_bytes += len(content)
        if fault == "cut":
            content, self.close_connection = content[: len(content) // 2], True
        step = max(1, len(content) // 20) if fault == "slow" else max(1, len(content))
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if fault == "slow":
                self.wfile.flush()
                time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


def environment(port: int) -> dict[str, str]:
    """Return the variables with which S3 clients find a server."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "SECRETSECRET",
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_REGION": "us-east-1",
    }


def make_bucket(port: int) -> str:
    """Make a bucket of a new name; return the name."""
    name, server = f"b{uuid4().hex[:12]}", http.client.HTTPConnection(HOST, port)
    server.request("PUT", f"/{name}")
    assert server.getresponse().status == 200
    server.close()
    return name
