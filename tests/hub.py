"""A stand-in for the Hugging Face hub: an HTTP server on this machine with the calls that huggingface_hub makes.

It makes repositories, says which files go to LFS, takes those by its batch call, takes commits, and serves files of any
revision. Writing needs a token, as on the hub.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

TOKEN = "hf_stand_in"
Files = dict[str, tuple[bytes, bool]]
"""Content by name, and whether it is in LFS."""


@dataclass
class Hub:
    """The repositories of a hub.

    Attributes:
        address: of the server.
        repos: by name, the files of each revision; "main" is the last one.
        private: whether each was made private.
        objects: of LFS, by SHA-256.
        calls: method and path of each request.
    """

    address: str = ""
    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    fails: int | None = None

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit files without a client; return the revision."""
        return self.commit(repo, {name: (content, False) for name, content in files.items()})

    def commit(self, repo: str, files: Files) -> str:
        revisions = self.repos.setdefault(repo, {"main": {}})
        tree = revisions["main"] | files
        revision = hashlib.sha1(repr((len(revisions), sorted(tree))).encode()).hexdigest()
        revisions["main"] = revisions[revision] = tree
        self.objects |= {hashlib.sha256(content).hexdigest(): content for content, in_lfs in files.values() if in_lfs}
        return revision

    def revision_of(self, repo: str) -> str:
        return list(self.repos[repo])[-1]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any = None, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(content))} | {k.replace("_", "-"): v for k, v in headers.items()}
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.calls.append(f"{self.command} {path}")
        if self.hub.fails:
            return self.answer(self.hub.fails, {"error": "out of order"})
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                if method == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, {"error": "Invalid username or password."})
                return function(self, body, *match.groups())
        return self.answer(404, {"error": f"no {self.command} {path} here"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        address = f"{self.hub.address}/{repo}"
        if repo in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo", "url": address})
        self.hub.repos[repo] = {"main": {}}
        self.hub.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self.answer(200, {"url": address, "name": repo})

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        errors = [] if text.startswith("---\n") and "\nlicense: " in text else [{"message": "no license"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = [
            {"path": f["path"], "shouldIgnore": False, "uploadMode": "lfs" if _is_lfs(f["path"]) else "regular"}
            for f in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.address}/lfs/{each['oid']}", "header": {}}
            verify = {"href": f"{self.hub.address}/lfs/verify", "header": {}}
            objects.append({**each, "actions": {"upload": upload, "verify": verify}})
        self.answer(200, {"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "another SHA-256"})
        self.hub.objects[oid] = body
        return self.answer(200, {})

    def verify(self, body: bytes) -> None:
        asked = json.loads(body)
        known = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self.hub.verified |= {asked["oid"]} if known else set()
        self.answer(200 if known else 422, {})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        files: Files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif entry["key"] == "lfsFile":
                files[value["path"]] = (self.hub.objects[value["oid"]], True)
        oid = self.hub.commit(repo, files)
        url = f"{self.hub.address}/{repo}/commit/{oid}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def resolve(self, body: bytes, repo: str, revision: str, name: str) -> None:
        for found, code in (
            (repo in self.hub.repos, "RepoNotFound"),
            (revision in self.hub.repos.get(repo, {}), "RevisionNotFound"),
            (name in self.hub.repos.get(repo, {}).get(revision, {}), "EntryNotFound"),
        ):
            if not found:
                return self.answer(404, {"error": code}, X_Error_Code=code)
        content, in_lfs = self.hub.repos[repo][revision][name]
        commit = self.hub.revision_of(repo) if revision == "main" else revision
        digest = hashlib.sha256(content).hexdigest()
        if not in_lfs:
            return self.answer(200, content, ETag=f'"{digest[:40]}"', X_Repo_Commit=commit)
        linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit}
        elsewhere = self.hub.address.replace("127.0.0.1", "localhost")  # like the hub, whose files are on other hosts
        return self.answer(302, b"", Location=f"{elsewhere}/lfs/{digest}", **linked)

    def get_object(self, body: bytes, oid: str) -> None:
        self.answer(200, self.hub.objects[oid], ETag=f'"{oid}"')


def _is_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", rf"/api/models/{REPO}/preupload/([\w.-]+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(\w+)", Handler.put_object),
    ("POST", r"/lfs/verify", Handler.verify),
    ("POST", rf"/api/models/{REPO}/commit/([\w.-]+)", Handler.commit),
    ("HEAD", rf"/{REPO}/resolve/([\w.-]+)/([\w.-]+)", Handler.resolve),
    ("GET", rf"/{REPO}/resolve/([\w.-]+)/([\w.-]+)", Handler.resolve),
    ("HEAD", r"/lfs/(\w+)", Handler.get_object),
    ("GET", r"/lfs/(\w+)", Handler.get_object),
]


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub in a thread."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(hub: Hub, cache: str) -> dict[str, str]:
    """Return the variables with which a process uses a hub instead of the real one. Xet has a protocol of its own."""
    return {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_CACHE": cache, "HF_HUB_DISABLE_XET": "1"}


def use(hub: Hub, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a hub in this process, whose huggingface_hub has read the variables already."""
    for name, value in environment(hub, cache).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
