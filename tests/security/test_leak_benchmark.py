"""`pii-leak-benchmark` asks the whole application, from outside, what leaves and what comes back.

The one model here is kept busy by an endless answer, so every request overflows. The provider is
the benchmark's own capturing server, which sees each request as we sent it. Its answers are made
whole on their way back: they have neither an index, nor an end, nor a usage, and a stream without
these counts as cut short here.

What comes back is the provider's text with the client's own values in it. Personal data that a
provider makes up is no secret of anybody here and passes, so the benchmark's `LeakRate`, which
counts just that, is no goal of ours; that it is the same for whole and for cut values is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal

import httpx
import pytest
from pii_leak_benchmark.http_profile import run_http_conformance
from pii_leak_benchmark.selfcheck import verdict_for
from pii_leak_benchmark.v2_emitter import run_policy

from benchmarks.running.ports import free_port
from tests.end_to_end.backend import Backend, served
from tests.serving.egress.standin import Behaviour, Received, StandIn, standing
from tests.serving.egress.wire_format import sse, streams

pytestmark = pytest.mark.full

# Secrets are kept out of answers unless a tenant says otherwise: the answer to an injected document
# could carry them off. The benchmark sends some and wants them back, so one tenant here says it.
CONFIGURATION = """
models:
  - id: simulated
    simulation: {{step_base_ms: 1000}}
    max_ongoing_requests: 1
    max_queued_requests: 1
admission: {{max_queue_wait_s: 0.1}}
overflow:
  max_share: 1
  providers:
    - name: capture
      kind: openai
      base_url: {url}/v1
      api_key: sk-theirs
      models: [{{model: large, stands_in_for: [simulated], context_tokens: 100000}}]
privacy:
  tenants: {{trusting: {{SECRET: mask}}}}
"""
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}
HOP_BY_HOP = ("host", "content-length", "connection", "transfer-encoding")
SEED = "0123456789abcdef"

Duty = Literal["restore", "anonymize"]


class Capture:
    """The proxy to the benchmark's server: a request passes unchanged, its answer is completed."""

    def __init__(self) -> None:
        self.port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def __call__(self, received: Received) -> Behaviour:
        headers = {k: v for k, v in received.headers.items() if k not in HOP_BY_HOP}
        answer = self._client.post(received.target, content=received.body, headers=headers)
        answer.raise_for_status()
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line[6:7] == "{"]
        told = [{"choices": [{"index": 0} | event["choices"][0]]} for event in events]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}
        frames = [sse(event, done=False) for event in told]
        return streams(b"".join(frames) + sse(end), cuts=accumulate(map(len, frames)))


@pytest.fixture(scope="module")
def capture() -> Capture:
    return Capture()


@pytest.fixture(scope="module")
def provider(capture: Capture) -> Iterator[StandIn]:
    """A stand-in in front of the capturing server."""
    with standing(capture) as server:
        yield server


@pytest.fixture(scope="module")
def backend(provider: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    home = tmp_path_factory.mktemp("leak-benchmark")
    with served(home, CONFIGURATION.format(url=provider.url)) as here, busy(here):
        yield here


@contextmanager
def busy(backend: Backend) -> Iterator[None]:
    """Occupy the model's only place during the block."""
    body = {"model": "simulated", "prompt": "Count.", "max_tokens": 7000, "ignore_eos": True}
    with httpx.stream(
        "POST",
        f"{backend.url}/v1/completions",
        json=body | {"stream": True},
        headers=backend.headers,
        timeout=120,
    ) as answer:
        lines = answer.iter_lines()  # Kept, or the connection would be closed.
        next(lines)
        yield


def new_key(backend: Backend, tenant: str, privacy: str) -> str:
    admin = {"authorization": f"Bearer {(backend.home / 'admin-key').read_text().strip()}"}
    with httpx.Client(base_url=f"{backend.url}/admin/v1", headers=admin, timeout=30) as client:
        client.post("/tenants", json={"name": tenant})
        wanted = {"tenant": tenant, "name": privacy, "privacy": privacy}
        answer = client.post("/keys", json=wanted)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["key"])


@pytest.fixture(scope="module")
def keys(backend: Backend) -> dict[str, str]:
    """Keys of a tenant with the default policy, of one that restores secrets, and an open one."""
    return {
        "default": new_key(backend, "careful", "scrubbed"),
        "trusting": new_key(backend, "trusting", "scrubbed"),
        "open": new_key(backend, "careful", "open"),
    }


def measured(
    backend: Backend, capture: Capture, key: str, *, secrets: bool, duty: Duty = "restore"
) -> tuple[str, dict[str, Any]]:
    """Return the verdict of `pii-leak-benchmark selfcheck`, and its report."""
    report = run_http_conformance(
        f"{backend.url}/v1",
        api_key=key,
        model="simulated",
        implementation_name="ringfence",
        implementation_version="selfcheck",
        iterations=5,
        timeout_seconds=30,
        capture_port=capture.port,
        include_credentials=secrets,
    )
    verdict, reason = verdict_for(report, duty=duty)
    print(verdict, reason, json.dumps(report["checks"], indent=1))  # noqa: T201  Of a failed run.
    return verdict, report["checks"]


def test_personal_data_and_secrets_stay_and_come_back_where_the_tenant_wants_it(
    backend: Backend, capture: Capture, keys: dict[str, str]
) -> None:
    verdict, checks = measured(backend, capture, keys["trusting"], secrets=True)
    assert verdict == "CLEAN"
    assert checks["response_fidelity"]["iterations_matching"] == 5
    assert checks["fragmentation_safety"]["passed"]


def test_personal_data_comes_back_by_default(
    backend: Backend, capture: Capture, keys: dict[str, str]
) -> None:
    assert measured(backend, capture, keys["default"], secrets=False)[0] == "CLEAN"


def test_secrets_stay_and_do_not_come_back_by_default(
    backend: Backend, capture: Capture, keys: dict[str, str]
) -> None:
    verdict, checks = measured(backend, capture, keys["default"], secrets=True, duty="anonymize")
    assert verdict == "CLEAN"
    assert checks["response_fidelity"]["iterations_matching"] == 0


def test_benchmark_sees_what_an_open_key_lets_out(
    backend: Backend, capture: Capture, keys: dict[str, str]
) -> None:
    assert measured(backend, capture, keys["open"], secrets=True)[0] == "LEAK"


def test_values_come_back_from_every_place_and_cuts_change_nothing(
    backend: Backend, capture: Capture, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("V2_GATEWAY_TOKEN", keys["default"])
    report, summary = run_policy(
        "ringfence",
        seed=SEED,
        gateway_url=f"{backend.url}/v1/chat/completions",
        upstream_port=capture.port,
        model="simulated",
        oracle="exhaustive-2-part",
    )
    checks = report["checks"]
    print(json.dumps(summary, indent=1), json.dumps(checks, indent=1))  # noqa: T201
    assert (summary["inconclusive"], summary["echo_observable"]) == (0, 24)  # 8 in unknown fields.
    assert checks["configured_upstream_boundary"]["leaked_entity_types"] == []
    assert (summary["fidelity_rate"], summary["delta_frag"]) == (1.0, 0.0)
    assert checks["fragmentation_safety"]["coalescing_cases"] == 0
    assert checks["sse_validity"]["passed"]
