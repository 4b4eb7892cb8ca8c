"""A Hugging Face Hub for one data set, on this machine: what `huggingface_hub` asks for when it uploads a folder.

Large files go to a store of chunks in a folder (`local://`, which the Hub's own transfer library writes to), as on the Hub
they go to its store; small ones stand in the commit. With `HF_HUB_DISABLE_XET` large files are put by HTTP, as Git LFS does.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "t" * 34
LARGE = (".parquet", ".jsonl.zst")


class Hub:
    """What the Hub has, and what it was asked."""

    def __init__(self, chunks: Path) -> None:
        self.chunks = chunks
        self.url = ""
        self.private: bool | None = None
        """None while there is no data set."""
        self.name = ""
        self.files: dict[str, bytes | dict[str, Any]] = {}
        """By path, what a commit brought: the bytes, or what it says of a large file."""
        self.large: dict[str, bytes] = {}
        """By SHA-256, large files that were put by HTTP."""
        self.commits = 0
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.refuses: int | None = None
        """A status for whatever wants to write."""

    def make(self, name: str, *, private: bool, files: dict[str, bytes] | None = None) -> None:
        """Puts a data set there, as if it had been made before."""
        self.name, self.private = name, private
        self.files = {".gitattributes": b"", **(files or {})}

    def commit(self, lines: list[dict[str, Any]]) -> str:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    self.files[value["path"]] = value
                case "deletedFile":
                    del self.files[value["path"]]
        self.commits += 1
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


@contextmanager
def hub_at(chunks: Path) -> Iterator[Hub]:
    """A Hub that is up while the context lasts."""
    hub = Hub(chunks)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer("POST")

        def do_GET(self) -> None:
            self._answer("GET")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def log_message(self, *args: Any) -> None:
            """Says nothing."""

        def _answer(self, method: str) -> None:
            path = self.path.partition("?")[0]
            body = self._body()
            hub.asked.append((method, path))
            if path.startswith(("/api/repos/", "/api/datasets/", "/datasets/")):
                token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
                hub.tokens.add(token)
                if token != TOKEN:
                    return self._send(401, {"error": "Invalid username or password."})
            if hub.refuses and (path.endswith("/create") or "/commit/" in path):
                return self._send(hub.refuses, {"error": "You don't have the rights to create a dataset here."})
            api = f"/api/datasets/{hub.name}"
            match method, path:
                case "POST", "/api/repos/create":
                    return self._create(json.loads(body))
                case "GET", _ if path == api and hub.private is not None:
                    siblings = [{"rfilename": name} for name in hub.files]
                    return self._send(
                        200, {"id": hub.name, "sha": "0" * 40, "private": hub.private, "siblings": siblings}
                    )
                case "GET", _ if path.startswith(f"{api}/tree/"):
                    tree = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in hub.files]
                    return self._send(200, tree)
                case "POST", "/api/validate-yaml":
                    return self._send(200, {"errors": [], "warnings": []})
                case "POST", _ if path.startswith(f"{api}/preupload/"):
                    files = [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                            "shouldIgnore": False,
                        }
                        for each in json.loads(body)["files"]
                    ]
                    return self._send(200, {"files": files})
                case "POST", _ if path.endswith(".git/info/lfs/objects/batch"):
                    return self._batch(json.loads(body))
                case "PUT", _ if path.startswith("/large/"):
                    hub.large[path.removeprefix("/large/")] = body
                    return self._send(200, {})
                case "GET", _ if "/xet-write-token/" in path:
                    return self._send_store()
                case "POST", _ if path.startswith(f"{api}/commit/"):
                    oid = hub.commit([json.loads(line) for line in body.splitlines()])
                    return self._send(
                        200, {"commitUrl": f"{hub.url}/datasets/{hub.name}/commit/{oid}", "commitOid": oid}
                    )
            return self._send(404, {"error": f"no {method} {path}"}, {"X-Error-Code": "RepoNotFound"})

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            url = {"url": f"{hub.url}/datasets/{name}", "name": name}
            if hub.private is not None:
                return self._send(409, {"error": "You already created this dataset repo", **url})
            assert asked["type"] == "dataset"
            hub.make(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
            return self._send(200, url)

        def _batch(self, asked: dict[str, Any]) -> None:
            objects = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}} for each in asked["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})

        def _send_store(self) -> None:
            store, until = f"local://{hub.chunks}", str(int(time.time()) + 3600)
            headers = {"X-Xet-Cas-Url": store, "X-Xet-Access-Token": "store", "X-Xet-Token-Expiration": until}
            self._send(200, {"casUrl": store, "accessToken": "store", "exp": int(until)}, headers)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
