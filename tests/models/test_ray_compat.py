"""What is changed in Ray Serve does what its name says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn import Config

from models.ray_compat import leave_request_ids

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.stack
def test_full_replica_is_urged_and_hears_of_its_stop_before_its_requests_have_ended(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("replica_stop_scenario.py")), str(log)],
        env={"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines()[0] == "answered"  # Ray adds lines of its own.
    assert log.read_text().splitlines() == ["asked", "urged", "stopped by Ray Serve", "closed"]


class Replica:
    """Answers by a method, as Ray Serve's replica does."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("answered")(scope, receive, send)


async def test_no_request_id_is_added_and_uvicorn_serves_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve._private import http_util

    monkeypatch.setattr(http_util, "RequestIdMiddleware", http_util.RequestIdMiddleware)
    leave_request_ids()
    application = http_util._apply_middlewares(Replica().answer, [])
    # As Ray Serve starts it.
    served = Config(lambda: application, factory=True, lifespan="off", log_config=None)
    served.load()
    transport = httpx.ASGITransport(served.loaded_app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/")
    assert (answer.text, "x-request-id" in answer.headers) == ("answered", False)
