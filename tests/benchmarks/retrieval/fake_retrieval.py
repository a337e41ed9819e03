"""A fake server of files, vector stores and embeddings; it finds abstracts by common words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any

LONGEST_WORDS = 100


class FakeServer(ThreadingHTTPServer):
    """Records files, stores and every search."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.numbers = count(1)
        self.files: dict[str, tuple[str, str]] = {}
        self.stores: dict[str, list[str]] = {}
        self.strategies: list[dict[str, Any]] = []
        self.searches: list[dict[str, Any]] = []
        self.failing = 0
        self.uploaded: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        batch = self.path.rsplit("/", 1)[-1]
        self._answer({"id": batch, "status": "completed", "file_counts": self._counts()})

    def do_DELETE(self) -> None:
        kind, name = self.path.split("/")[2:4]
        gone = self.server.stores if kind == "vector_stores" else self.server.files
        gone.pop(name)
        self._answer({"id": name, "deleted": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/files":
            self._answer({"id": self._upload(body.decode())})
            return
        asked = json.loads(body)
        if self.path == "/v1/embeddings":
            self._embed(asked["input"])
        elif self.path == "/v1/vector_stores":
            store = f"vs_{next(self.server.numbers)}"
            self.server.stores[store] = []
            self._answer({"id": store})
        elif self.path.endswith("/file_batches"):
            self.server.stores[self.path.split("/")[3]] += asked["file_ids"]
            self.server.strategies.append(asked["chunking_strategy"])
            self._answer({"id": "batch", "status": "in_progress"})
        else:
            self.server.searches.append(asked)
            self._search(self.server.stores[self.path.split("/")[3]], asked)

    def _upload(self, form: str) -> str:
        file = f"file-{next(self.server.numbers)}"
        [name] = re.findall(r'filename="(.*?)"', form)
        text = form.split(f'filename="{name}"', 1)[1].split("\r\n\r\n", 1)[1].split("\r\n--", 1)[0]
        self.server.files[file] = (name, text)
        self.server.uploaded.add(name)
        return file

    def _embed(self, given: str | list[str]) -> None:
        texts = [given] if isinstance(given, str) else given
        if any(len(text.split()) > LONGEST_WORDS for text in texts):
            self._answer({"error": {"message": "too long"}}, status=400)
            return
        rows = [[float(len(text)), 1.0, float(text.count("e"))] for text in texts]
        self._answer({"data": [{"embedding": row} for row in rows]})

    def _search(self, files: list[str], asked: dict[str, Any]) -> None:
        words = set(asked["query"].split())
        named = [self.server.files[file] for file in files]
        ranked = sorted(named, key=lambda one: -len(words & set(one[1].split())))
        found = [{"filename": name} for name, _ in ranked[: asked["max_num_results"]]]
        self._answer({"data": [*found[:1], *found]})  # Two chunks of the best one.

    def _counts(self) -> dict[str, int]:
        return {"total": 2, "completed": 2 - self.server.failing, "failed": self.server.failing}

    def _answer(self, body: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving() -> Iterator[FakeServer]:
    """Run the server on loopback during the block."""
    with FakeServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
