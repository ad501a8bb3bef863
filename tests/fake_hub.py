"""A Hugging Face Hub on loopback that keeps one model, and can be told to misbehave."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO = "some/model"
REVISION = "0123456789abcdef0123456789abcdef01234567"
_LARGE = (".safetensors", ".bin", ".gguf")


class FakeHub(ThreadingHTTPServer):
    """See above. ``files`` is what the Hub states, ``sent`` what it sends in its place."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        """Listen on a free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.sent: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        """Bytes of a file after which the connection breaks."""
        self.is_gated = False
        self.asked: list[str] = []
        """Each request: method, path and range."""

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> set[str]:
        """Return the names of the files whose bytes were asked for."""
        return {line.split()[1].rpartition("/")[2] for line in self.asked if line[:3] == "GET"}

    def info(self) -> dict[str, Any]:
        """Return what the API says of the model."""
        return {"id": REPO, "sha": REVISION, "siblings": [*map(self._sibling, self.files)]}

    def etag(self, name: str) -> str:
        """Return a file's SHA-256 if it is large, else git's hash."""
        data = self.files[name]
        if name.endswith(_LARGE):
            return hashlib.sha256(data).hexdigest()
        head = f"blob {len(data)}\0".encode()
        return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()

    def _sibling(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        sibling = {"rfilename": name, "size": size, "blobId": self.etag(name)}
        if name.endswith(_LARGE):
            sibling["lfs"] = {"sha256": self.etag(name), "size": size, "pointerSize": 1}
        return sibling


@contextmanager
def running(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Yield a Hub that answers until the end of the block."""
    with FakeHub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._note()
        name = self._file()
        if name is not None:
            self._start(200, len(self.server.files[name]), name)

    def do_GET(self) -> None:
        self._note()
        if self.path.startswith("/api/"):
            self._api()
            return
        name = self._file()
        if name is None:
            return
        data = self.server.sent.get(name, self.server.files[name])
        begin = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
        self._start(206 if begin else 200, len(data) - begin, name)
        self.wfile.write(data[begin : self.server.cut_after.get(name)])

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def _note(self) -> None:
        self.server.asked.append(
            f"{self.command} {self.path} {self.headers.get('Range', '')}".strip()
        )

    def _api(self) -> None:
        if not self.path.startswith(f"/api/models/{REPO}?"):
            self._refuse("RepoNotFound", 404)
            return
        body = json.dumps(self.server.info()).encode()
        self._start(200, len(body))
        self.wfile.write(body)

    def _file(self) -> str | None:
        if self.server.is_gated:
            self._refuse("GatedRepo", 403)
            return None
        name = self.path.removeprefix(f"/{REPO}/resolve/{REVISION}/")
        if name in self.server.files:
            return name
        self._refuse("EntryNotFound", 404)
        return None

    def _start(self, status: int, length: int, name: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if name is not None:
            self.send_header("ETag", f'"{self.server.etag(name)}"')
            self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()

    def _refuse(self, code: str, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
