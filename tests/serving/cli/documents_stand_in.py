"""A stand-in for the admin API of vector stores, on its own port, with scripted answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Documents:
    """Scripted answers, and the requests received."""

    answers: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """Answers by method and path, in order; the last one repeats."""

    bodies: list[Any] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.bodies.append(json.loads(body) if body else None)
        answers = self.answers.get((method, path))
        if not answers:
            return 404, _error()
        return 200, answers.pop(0) if len(answers) > 1 else answers[0]


def _error() -> dict[str, Any]:
    return {"error": {"message": "It is refused.", "type": "t", "param": None, "code": None}}


@contextmanager
def listening(documents: Documents) -> Iterator[str]:
    """Its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            with documents.lock:
                status, told = documents.answer(self.command, self.path.partition("?")[0], body)
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
