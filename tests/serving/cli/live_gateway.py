"""A real gateway with its files and stores on a port, in a thread, for commands beside it."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import config
from serving.storage.migrate import upgrade
from tests.serving.knowledge.backend import MODELS, Backend, opened
from tests.serving.live import listening

ROOT = Path(__file__).parents[3]
WITHIN_S = 120.0
ENVELOPE = {"error": {"message": "It is refused.", "type": "t", "param": None, "code": None}}


@dataclass
class Tap:
    """An application that records requests and refuses them on demand."""

    app: ASGIApp
    seen: list[str] = field(default_factory=list)
    refuses: Callable[[str], bool] = lambda _: False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = f"{scope['method']} {scope['path']}"
        self.seen.append(line)
        refused = self.refuses(line)
        await (JSONResponse(ENVELOPE, 409) if refused else self.app)(scope, receive, send)

    def uploads(self) -> int:
        return self.seen.count("POST /v1/files")


@dataclass(frozen=True, slots=True)
class Live:
    """A gateway that runs."""

    url: str
    tap: Tap
    new_key: Callable[..., str]


@dataclass(frozen=True, slots=True)
class Client:
    """A gateway as a new tenant's key sees it, and commands with that key."""

    live: Live
    http: httpx.Client
    key: str
    home: Path

    def all(self, path: str) -> list[dict[str, Any]]:
        """Return a list of the API, which fits on one page in tests."""
        page = self.http.get(path, params={"limit": 100}).raise_for_status().json()
        assert not page["has_more"]
        return page["data"]  # type: ignore[no-any-return]

    def store(self, name: str) -> str:
        """Return the id of the only store with a name."""
        (found,) = (one["id"] for one in self.all("/vector_stores") if one["name"] == name)
        return str(found)

    def rows(self, store: str) -> list[dict[str, Any]]:
        return self.all(f"/vector_stores/{self.store(store)}/files")

    def contents(self, store: str) -> dict[str, bytes]:
        """Return the bytes of a store's files by source and path, each of which exists once."""
        rows = self.rows(store)
        found = {
            f"{row['attributes'].get('source')}:{row['attributes']['path']}": self.content(
                row["id"]
            )
            for row in rows
        }
        assert len(found) == len(rows)
        return found

    def content(self, file_id: str) -> bytes:
        return self.http.get(f"/files/{file_id}/content").raise_for_status().content

    def attach(self, store: str, name: str, text: str, attributes: dict[str, Any]) -> str:
        """Upload a file into a store by the API; return its id."""
        form = {"files": {"file": (name, text.encode())}, "data": {"purpose": "user_data"}}
        file_id = self.http.post("/files", **form).raise_for_status().json()["id"]  # type: ignore[arg-type]
        body = {"file_id": file_id, "attributes": attributes}
        self.http.post(f"/vector_stores/{store}/files", json=body).raise_for_status()
        return str(file_id)

    def start(self, *arguments: str | Path | bytes, **how: Any) -> subprocess.Popen[str]:
        """Start `ringfence ingest` in its own process."""
        command = [sys.executable, "-m", "serving.cli", "ingest", "--url", self.live.url]
        own = {name: text for name, text in os.environ.items() if "RINGFENCE" not in name}
        return subprocess.Popen(
            [*command, *arguments], cwd=ROOT, text=True,
            env=own | {"RINGFENCE_HOME": str(self.home), "RINGFENCE_API_KEY": self.key},
            **{"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1} | how,
        )  # fmt: skip


@contextmanager
def gateway(directory: Path, valkey_url: str) -> Iterator[Live]:
    """Run the gateway during the block."""
    url = f"sqlite:///{directory}/ringfence.db"
    upgrade(url)
    raw = {"models": MODELS, "storage": {"valkey": valkey_url}, "access": {"database": url}}
    settings = config.parse(raw, {"RINGFENCE_HOME": str(directory)})
    running: Future[tuple[Backend, int, Tap, asyncio.Event, asyncio.AbstractEventLoop]] = Future()

    async def serve() -> None:
        end = asyncio.Event()
        async with opened(settings) as backend:
            tap = Tap(backend.app)
            async with listening(tap) as port:
                running.set_result((backend, port, tap, end, asyncio.get_running_loop()))
                await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    backend, port, tap, end, loop = running.result(WITHIN_S)

    def new_key(*groups: str, tenant: str, user: str | None = None) -> str:
        made = backend.key(*groups, tenant=tenant, user=user)
        return asyncio.run_coroutine_threadsafe(made, loop).result(WITHIN_S)[0]

    try:
        yield Live(f"http://127.0.0.1:{port}", tap, new_key)
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(WITHIN_S)


@contextmanager
def client(
    live: Live, home: Path, *groups: str, tenant: str | None = None, user: str | None = None
) -> Iterator[Client]:
    """Create a key, for a new tenant unless one is given."""
    key = live.new_key(*groups, tenant=tenant or f"t-{secrets.token_hex(6)}", user=user)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{live.url}/v1", headers=headers, timeout=30) as http:
        yield Client(live, http, key, home)
