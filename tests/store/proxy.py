"""A proxy before a server of objects on this machine. It can fail."""

import http.client
import time
from collections.abc import Callable
from threading import Lock
from urllib.parse import unquote

from .loopback import HOST, Handler, Server

STALLED_SECONDS = 1.5
Fault = Callable[[str, str], str | None]


class Proxy(Server):
    """Forwards requests to a server, and spoils some of them.

    Attributes:
        fault: given method and path of a request, its fault: "500", "stall" (no answer), "cut" (half of the body),
            "slow" (the body comes in small pieces), "lost" (the server does it, but the answer never comes) or None.
        asked: (method, path) of every request, without escapes.
        n_bytes: bytes of all bodies sent to the client.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        self.fault: Fault = lambda method, path: None
        self.asked: list[tuple[str, str]] = []
        self.n_bytes = 0
        self.lock = Lock()
        super().__init__(_Handler)


class _Handler(Handler):
    server: Proxy

    def answer(self) -> None:
        proxy, body, path = self.server, self.body(), unquote(self.path)
        with proxy.lock:
            proxy.asked.append((self.command, path))
            fault = proxy.fault(self.command, path)
        if fault == "500":
            self.send(500, b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "stall":
            time.sleep(STALLED_SECONDS)
        else:
            status, headers, content = self._ask(proxy.behind, body)
        if fault in ("stall", "lost"):
            self.close_connection = True
            return
        self._pass_on(status, headers, content, fault)

    def _ask(self, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection(HOST, port, timeout=60)
        server.request(self.command, self.path, body, dict(self.headers))
        found = server.getresponse()
        content = found.read()
        server.close()
        return found.status, {name.lower(): value for name, value in found.getheaders()}, content

    def _pass_on(self, status: int, headers: dict[str, str], content: bytes, fault: str | None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        with self.server.lock:
            self.server.n_bytes += len(content)
        if fault == "cut":
            content, self.close_connection = content[: len(content) // 2], True
        step = max(1, len(content) // 20) if fault == "slow" else max(1, len(content))
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if fault == "slow":
                self.wfile.flush()
                time.sleep(0.01)
