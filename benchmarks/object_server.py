"""A server that speaks the few requests of S3 which the benchmark makes, and keeps objects in memory.

    python benchmarks/object_server.py      prints its port, and serves until it is killed

It counts the bytes of objects that it sends: GET /-/sent returns the number. Signatures are not checked.
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Server(ThreadingHTTPServer):
    """Objects by path, and the parts of unfinished uploads."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock, self.sent = Lock(), 0


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Send an object, a range of it, a list, or the number of bytes sent."""
        path, query = self._asked()
        if path == "/-/sent":
            self._send(200, str(self.server.sent).encode())
        elif "list-type" in query:
            self._list(path.strip("/"), query)
        elif path not in self.server.objects:
            self._send(404)
        else:
            data = self.server.objects[path]
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, stop = (int(found[1]), min(int(found[2]) + 1, len(data))) if found else (0, len(data))
            about = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if found else {}
            with self.server.lock:
                self.server.sent += stop - start
            self._send(206 if found else 200, memoryview(data)[start:stop], about)

    def do_HEAD(self) -> None:
        """Send the size of an object."""
        path, _ = self._asked()
        data = self.server.objects.get(path)
        self._send(404 if data is None else 200, data or b"", body=False)

    def do_PUT(self) -> None:
        """Keep an object, or a part of one."""
        path, query = self._asked()
        data = bytearray(int(self.headers.get("Content-Length") or 0))
        view = memoryview(data)
        while view and (n_read := self.rfile.readinto(view)):
            view = view[n_read:]
        if "uploadId" in query:
            self.server.parts[query["uploadId"]][int(query["partNumber"])] = bytes(data)
        elif self.headers.get("If-None-Match") == "*" and path in self.server.objects:
            self._send(412)
            return
        else:
            self.server.objects[path] = bytes(data)
        self._send(200)

    def do_POST(self) -> None:
        """Begin or complete an upload in parts, or remove objects."""
        path, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if "uploads" in query:
            upload = uuid4().hex
            self.server.parts[upload] = {}
            self._send(200, f"<R><Bucket>b</Bucket><Key>k</Key><UploadId>{upload}</UploadId></R>".encode())
        elif "uploadId" in query:
            parts = self.server.parts.pop(query["uploadId"])
            self.server.objects[path] = b"".join(parts[number] for number in sorted(parts))
            self._send(200, b"<R><Location>l</Location><Bucket>b</Bucket><Key>k</Key><ETag>e</ETag></R>")
        else:
            names = re.findall("<Key>(.*?)</Key>", body)
            for name in names:
                self.server.objects.pop(f"{path.rstrip('/')}/{name}", None)
            gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            self._send(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_DELETE(self) -> None:
        """Remove an object."""
        self.server.objects.pop(self._asked()[0], None)
        self._send(204)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, entries, folders = query.get("prefix", ""), [], set()
        for path, data in sorted(self.server.objects.items()):
            name = path.removeprefix(f"/{bucket}/")
            if path != name and name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if query.get("delimiter") and "/" in rest:
                    folders.add(prefix + rest.split("/")[0] + "/")
                else:
                    about = (
                        f"<Size>{len(data)}</Size><ETag>e</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    )
                    entries.append(f"<Contents><Key>{escape(name)}</Key>{about}</Contents>")
        shown = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(entries)}{shown}</ListBucketResult>"
        self._send(200, body.encode())

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }

    def _send(
        self, status: int, data: bytes | memoryview = b"", headers: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        self.send_response_only(status)
        about = {"ETag": '"e"', "Last-Modified": DATE, "Content-Length": str(len(data))} | (headers or {})
        for name, value in about.items():
            self.send_header(name, value)
        self.end_headers()
        if body and len(data):
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    served = Server()
    print(served.server_port)
    sys.stdout.flush()
    served.serve_forever()
