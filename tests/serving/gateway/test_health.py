"""`/health`, `/ready` and `/metrics`: open to all, and reveal nothing but states."""

from __future__ import annotations

import pytest

from serving.domain.model_state import RETRIEVAL, ModelState
from tests.serving.conftest import Backend, Make

READY = ModelState("ready")


@pytest.fixture
def open_backend(make: Make) -> Backend:
    backend = make(states={"chat": READY})
    del backend.client.headers["authorization"]
    return backend


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_probes_need_no_key(open_backend: Backend, path: str) -> None:
    assert (await open_backend.client.get(path)).status_code == 200


async def test_health_says_alive(open_backend: Backend) -> None:
    assert (await open_backend.client.get("/health")).json() == {"status": "alive"}


async def test_ready_says_so_when_every_model_is(make: Make) -> None:
    answer = await make(states={"a": READY, "b": READY}).client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "models": {
            "a": {"state": "ready", "reason": None},
            "b": {"state": "ready", "reason": None},
        },
    }


@pytest.mark.parametrize("state", ["loading", "failed"])
async def test_ready_says_which_model_is_not_and_why(make: Make, state: str) -> None:
    other = ModelState(state, "because")  # type: ignore[arg-type]
    answer = await make(states={"a": READY, "b": other}).client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    assert answer.json()["models"]["b"] == {"state": state, "reason": "because"}


async def test_metrics_are_prometheus_text(open_backend: Backend) -> None:
    answer = await open_backend.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE ringfence_requests_total counter" in answer.text


async def test_metrics_name_no_tenant_or_key(backend: Backend) -> None:
    await backend.chat(max_tokens=1)
    text = (await backend.client.get("/metrics")).text
    assert 'model="chat"' in text
    assert "default" not in text
    assert "env" not in text


async def test_ready_tells_the_state_of_retrieval_apart_from_models(make: Make) -> None:
    loading = ModelState("loading", "because")
    answer = await make(states={"a": READY, RETRIEVAL: loading}).client.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "retrieval": {"state": "loading", "reason": "because"},
        "models": {"a": {"state": "ready", "reason": None}},
    }
