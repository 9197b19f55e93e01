"""A server of the part of Google Cloud Storage's XML API that obstore uses, by Google's documentation of it.

https://cloud.google.com/storage/docs/xml-api: PUT, GET, HEAD and DELETE of objects, lists of version 2 in pages, and
https://cloud.google.com/storage/docs/request-preconditions: x-goog-if-generation-match. No emulator that is a package
knows this precondition in this API. It asks for no credentials.
"""

import hashlib
import re
import sys
import time
from datetime import UTC, datetime
from email.utils import formatdate
from itertools import count
from threading import Lock
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree.ElementTree import Element, SubElement, tostring

from .loopback import Handler, Server

PAGE = 20
"""Names in one answer to a list. Google's are 1000."""


class Stored(NamedTuple):
    data: bytes
    generation: int
    written: float

    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{hashlib.md5(self.data).hexdigest()}"',
            "x-goog-generation": str(self.generation),
            "Last-Modified": formatdate(self.written, usegmt=True),
        }


class GoogleServer(Server):
    """Objects by bucket and name."""

    def __init__(self, port: int) -> None:
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.generations, self.lock = count(int(time.time() * 1e6)), Lock()
        super().__init__(_Handler, port)


class _Handler(Handler):
    server: GoogleServer

    def answer(self) -> None:
        body, url, buckets = self.body(), urlsplit(self.path), self.server.buckets
        bucket, _, name = url.path[1:].partition("/")
        with self.server.lock:
            if self.command == "PUT" and not name:
                buckets[bucket] = {}
                self.send(200)
            elif bucket not in buckets:
                self.send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif name:
                self._object(buckets[bucket], unquote(name), body)
            else:
                self._list(buckets[bucket], dict(parse_qsl(url.query)))

    def _object(self, objects: dict[str, Stored], name: str, body: bytes) -> None:
        found, wanted = objects.get(name), self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif self.command == "PUT":
            objects[name] = Stored(body, next(self.server.generations), time.time())
            self.send(200, b"", objects[name].headers())
        elif found is None:
            self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.command == "DELETE":
            del objects[name]
            self.send(204)
        else:
            self._read(found)

    def _read(self, found: Stored) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.send(200, found.data, found.headers())
        elif int(asked[1]) >= len(found.data):
            self.send(416, b"<Error><Code>InvalidRange</Code></Error>")
        else:
            part = found.data[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
            place = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(found.data)}"
            self.send(206, part, found.headers() | {"Content-Range": place})

    def _list(self, objects: dict[str, Stored], query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", query.get("start-after", ""))
        result, entries = Element("ListBucketResult"), dict[str, Stored | None]()
        for name in sorted(each for each in objects if each.startswith(prefix)):
            head, below, _ = name[len(prefix) :].partition(query.get("delimiter", "\0"))
            if (entry := prefix + head + below) > after:
                entries[entry] = None if below else objects[name]
        page = list(entries)[:PAGE]
        for name in page:
            if found := entries[name]:
                about = {"Key": name, "Generation": found.generation, "ETag": found.headers()["ETag"]}
                written = datetime.fromtimestamp(found.written, UTC).isoformat()
                add(result, "Contents", about | {"LastModified": written, "Size": len(found.data)})
        for name in page:
            if entries[name] is None:
                add(result, "CommonPrefixes", {"Prefix": name})
        if len(entries) > PAGE:
            SubElement(result, "NextContinuationToken").text = page[-1]
        self.send(200, tostring(result))


def add(parent: Element, name: str, fields: dict[str, object]) -> None:
    element = SubElement(parent, name)
    for each, value in fields.items():
        SubElement(element, each).text = str(value)


if __name__ == "__main__":
    GoogleServer(int(sys.argv[1])).thread.join()
