"""A stand-in for the files and vector stores API, on a port of its own. Keeps all in memory."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Library:
    """What clients put there. Files whose bytes hold `broken` fail to be indexed."""

    stores: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    attached: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[bytes] = field(default_factory=list)
    answers: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """Of any other path: those that come one after the other; the last one stays."""

    bodies: list[Any] = field(default_factory=list)
    refuse_attaching: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def paths(self) -> dict[str, bytes]:
        """Bytes by path of what is attached."""
        return {one["attributes"]["path"]: self.files[id_] for id_, one in self.attached.items()}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if method == "POST" and path == "/v1/files":
            return 200, {"id": self._upload(body)}
        if method == "DELETE" and (found := re.fullmatch(r"/v1/files/(.+)", path)):
            self.attached.pop(found[1], None)
            return (200, {"id": found[1]}) if self.files.pop(found[1], None) else (404, _error())
        if path == "/v1/vector_stores":
            return 200, self._stores(method, body)
        if found := re.fullmatch(r"/v1/vector_stores/[^/]+/files(?:/(.+))?", path):
            return self._attached(method, found[1], body)
        self.bodies.append(json.loads(body) if body else None)
        answers = self.answers.get((method, path))
        if not answers:
            return 404, _error()
        return 200, answers.pop(0) if len(answers) > 1 else answers[0]

    def _upload(self, body: bytes) -> str:
        self.uploads.append(body)
        id_ = f"file_{len(self.uploads)}"
        part = next(part for part in body.split(b"--" + body[2:34]) if b'name="file"' in part)
        self.files[id_] = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        return id_

    def _stores(self, method: str, body: bytes) -> dict[str, Any]:
        if method == "POST":
            name = json.loads(body)["name"]
            self.stores[f"vs_{len(self.stores) + 1}"] = name
            return {"id": f"vs_{len(self.stores)}"}
        return _page([{"id": id_, "name": name} for id_, name in self.stores.items()])

    def _attached(
        self, method: str, file_id: str | None, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            if self.refuse_attaching:
                return 409, _error()
            wire = json.loads(body)
            broken = b"broken" in self.files[wire["file_id"]]
            error = {"code": "invalid_file", "message": "The file is broken."} if broken else None
            self.attached[wire["file_id"]] = {
                "id": wire["file_id"], "status": "failed" if broken else "completed",
                "attributes": wire["attributes"], "last_error": error,
            }  # fmt: skip
            return 200, self.attached[wire["file_id"]]
        if file_id is None:
            return 200, _page(list(self.attached.values()))
        return 200, self.attached[file_id]


def _page(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {"data": data, "has_more": False, "last_id": data[-1]["id"] if data else None}


def _error() -> dict[str, Any]:
    return {"error": {"message": "It is refused.", "type": "t", "param": None, "code": None}}


@contextmanager
def listening(library: Library) -> Iterator[str]:
    """Its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with library.lock:
                status, told = library.answer(self.command, self.path.partition("?")[0], body)
            sent = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  The base class names them.

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
