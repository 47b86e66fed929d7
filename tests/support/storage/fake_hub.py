"""A fake Hugging Face Hub: the few HTTP responses that pinning and reading need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by `models/owner/name` or `datasets/owner/name`. Each has files and one commit."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.tokens: list[str] = []
        """The token of each request for a repository."""
        self.created: dict[str, dict[str, Any]] = {}
        """What was asked for each repository that was created."""
        self.broken = False
        """Answer every request with 503."""
        self.endpoint = ""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub on loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, hub)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    length = int(request.headers.get("Content-Length") or 0)
    body = request.rfile.read(length)
    if hub.broken:
        return _send(request, 503, b"busy")
    path = unquote(urlsplit(request.path).path).strip("/")
    if path == "api/validate-yaml":
        return _send(request, 200, b'{"errors": [], "warnings": []}')
    if path == "api/repos/create":
        return _create(request, hub, json.loads(body))
    api = path.startswith("api/")
    parts = path.removeprefix("api/").split("/")
    if parts[0] not in ("models", "datasets"):
        parts = ["models", *parts]
    name, rest = "/".join(parts[:3]), parts[3:]
    files = hub.repositories.get(name)
    if files is None:
        return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
    hub.tokens.append((request.headers.get("Authorization") or "").removeprefix("Bearer "))
    if name in hub.gated:
        return _send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
    if len(rest) > 1 and rest[1] not in (COMMIT, "main"):
        return _send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
    if rest[:1] in (["preupload"], ["commit"]):
        return _take(request, rest[0], files, body)
    return _api(request, name, rest, files, body) if api else _file(request, "/".join(rest[2:]), files)


def _create(request: BaseHTTPRequestHandler, hub: Hub, wanted: dict[str, Any]) -> None:
    name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
    hub.repositories.setdefault(f"models/{name}", {})
    hub.created[name] = wanted
    return _send(request, 200, json.dumps({"url": f"{hub.endpoint}/{name}"}).encode())


def _take(request: BaseHTTPRequestHandler, what: str, files: dict[str, bytes], body: bytes) -> None:
    """Take an upload: all files as they are, without large file storage."""
    if what == "preupload":
        modes = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
        ]
        return _send(request, 200, json.dumps({"files": modes}).encode())
    for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
    made = {
        "success": True,
        "commitOid": COMMIT,
        "commitUrl": "http://127.0.0.1/owner/name/commit/main",
        "hookOutput": "",
    }
    return _send(request, 200, json.dumps(made).encode())


def _api(request: BaseHTTPRequestHandler, name: str, rest: list[str], files: dict[str, bytes], body: bytes) -> None:
    tree = [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in sorted(files.items())
    ]
    if rest[:1] == ["tree"]:
        below = "/".join(rest[2:])
        return _send(request, 200, json.dumps([each for each in tree if each["path"].startswith(below)]).encode())
    if rest[:1] == ["paths-info"]:
        asked = body.decode()
        return _send(request, 200, json.dumps([each for each in tree if each["path"] in unquote(asked)]).encode())
    siblings = [{"rfilename": path} for path in sorted(files)]
    info = {"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings, "private": False}
    return _send(request, 200, json.dumps(info).encode())


def _file(request: BaseHTTPRequestHandler, path: str, files: dict[str, bytes]) -> None:
    if path not in files:
        return _send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
    etag = f'"{hashlib.sha1(files[path]).hexdigest()}"'
    return _send(request, 200, files[path], {"X-Repo-Commit": COMMIT, "ETag": etag})


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


@contextmanager
def hub_in_place(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """Make `huggingface_hub` and `datasets` use a fake hub, with an empty cache."""
    from datasets import config
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache / "datasets")
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(config, "HF_ENDPOINT", hub.endpoint)
        yield hub
