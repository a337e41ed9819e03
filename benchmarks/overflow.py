"""`python -m benchmarks.overflow`: time to first token that overflow to a provider adds.

A mock provider on loopback answers at once. It is asked directly, and through Ringfence while the
local model is full and `max_wait_s` is 0, so that every request overflows on arrival: in class
`open` (decision, ledger, breaker) and in class `scrubbed` (also detection, the last scan and
restoring). The ways alternate, one request at a time, each on an open connection.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx

from benchmarks.client.prompts import texts
from benchmarks.gateways.arms import token_stream
from benchmarks.reporting.report import provenance, table, write_document
from benchmarks.reporting.statistics import percentile
from benchmarks.running.arms import API_KEY, HOST, Arm, isolated_ringfence
from benchmarks.running.command import REPOSITORY, Finished, carry_out, progress
from benchmarks.running.keys import new_key
from benchmarks.running.machine import describe
from benchmarks.running.measure import MeasurementError
from benchmarks.running.ports import free_port
from benchmarks.running.processes import running
from benchmarks.servers.frames import MODEL as UPSTREAM_MODEL
from benchmarks.servers.steps import Pace

MODEL = "simulated"
WAYS = ("direct", "open", "scrubbed")
PROMPT_WORDS = 150
"""Length of a prompt, about a thousand characters."""

TOKENS = 16
WARM_UP = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study. Returns 1 if a request took the wrong way."""
    options = _options(argv)
    return carry_out("benchmarks.overflow", lambda: _finished(options), log=options.log)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overflow", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=200, help="requests of each way (default: 200)"
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    return parser.parse_args(argv)


def _finished(options: argparse.Namespace) -> Finished:
    began, began_s, machine = datetime.now(UTC), perf_counter(), describe(REPOSITORY)
    times = study(options.requests)
    told = provenance(
        machine,
        began=began,
        took_s=perf_counter() - began_s,
        command=("python", "-m", "benchmarks.overflow", *sys.argv[1:]),
    )
    document = {"machine": asdict(machine), "ttft_s": times}
    path = write_document(document, options.out, began=began, name="overflow")
    return Finished(began, "\n".join([*_table(times), "", told]), path)


def study(requests: int) -> dict[str, list[float]]:
    """Measure the TTFT in seconds of every request, by way.

    Raises:
        ServerError: A server does not start.
        MeasurementError: A request takes the wrong way.
    """
    directory = Path(tempfile.mkdtemp(prefix="ringfence-overflow-"))
    provider = token_stream(Pace(step_ms=0.0), port=free_port(), name="provider")
    arm = _served(provider, directory)
    keys = {way: new_key(arm, tenant="bench", name=way, privacy=way) for way in WAYS[1:]}
    progress(f"starting {arm.name}; logs: {directory}")
    with running(provider, log_dir=directory), running(arm, log_dir=directory):
        return _measured(provider, arm, keys, requests)


def _measured(
    provider: Arm, arm: Arm, keys: Mapping[str, str], requests: int
) -> dict[str, list[float]]:
    done = threading.Event()
    busy = threading.Thread(target=_keep_busy, args=(arm, done))
    busy.start()
    prompts = texts(
        range(requests + WARM_UP), seed=1, shortest_words=PROMPT_WORDS, longest_words=PROMPT_WORDS
    )
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        with httpx.Client(timeout=60) as client:
            for number, prompt in enumerate(prompts):
                for way in WAYS:
                    asked = provider if way == "direct" else arm
                    ttft_s = _ttft_s(client, asked, keys, way, prompt)
                    if number >= WARM_UP:
                        times[way].append(ttft_s)
    finally:
        done.set()
        busy.join()
    return times


def _ttft_s(
    client: httpx.Client, arm: Arm, keys: Mapping[str, str], way: str, prompt: str
) -> float:
    body = {
        "model": UPSTREAM_MODEL if way == "direct" else MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "max_tokens": TOKENS,
    }
    headers = {"authorization": f"Bearer {keys.get(way, API_KEY)}"}
    began = perf_counter()
    with client.stream(
        "POST", f"http://{HOST}:{arm.port}/v1/chat/completions", json=body, headers=headers
    ) as answer:
        first_s = 0.0
        for line in answer.iter_lines():
            if not first_s and '"content":"' in line and '"content":""' not in line:
                first_s = perf_counter() - began
    route = answer.headers.get("x-ringfence-route", "direct")
    went = "direct" if way == "direct" else "overflow:mock"
    if answer.status_code != 200 or not first_s or route != went:
        raise MeasurementError(f"{way}: status {answer.status_code}, route {route}")
    return first_s


def _keep_busy(arm: Arm, done: threading.Event) -> None:
    """Occupy the only place of the local model, with a key whose requests never leave."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Go on."}],
        "stream": True,
        "max_tokens": 4000,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {API_KEY}"}
    with httpx.Client(timeout=60) as client:
        while not done.is_set():
            with client.stream(
                "POST", f"http://{HOST}:{arm.port}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                for _ in answer.iter_bytes():
                    if done.is_set():
                        return


def _served(provider: Arm, directory: Path) -> Arm:
    document: dict[str, Any] = {
        "models": [
            {
                "id": MODEL,
                "simulation": {"step_base_ms": 50.0},
                "max_ongoing_requests": 1,
                "max_queued_requests": 4,
            }
        ],
        "overflow": {
            "max_wait_s": 0.0,
            "resume_wait_s": 0.0,
            "max_share": 1.0,
            "providers": [
                {
                    "name": "mock",
                    "kind": "openai",
                    "base_url": f"http://{HOST}:{provider.port}/v1",
                    "api_key": "sk-mock",
                    "models": [
                        {
                            "model": UPSTREAM_MODEL,
                            "stands_in_for": [MODEL],
                            "context_tokens": 100_000,
                        }
                    ],
                }
            ],
        },
    }
    return isolated_ringfence(directory, document)


def _table(times: Mapping[str, Sequence[float]]) -> list[str]:
    direct = percentile(times["direct"], 50)
    rows = []
    for way, found in times.items():
        p50, p99 = percentile(found, 50), percentile(found, 99)
        added = "" if way == "direct" else f"{(p50 - direct) * 1000:.1f}"
        rows.append((way, f"{p50 * 1000:.1f} / {p99 * 1000:.1f}", added, str(len(found))))
    return table(("way", "TTFT p50 / p99 ms", "added p50 ms", "requests"), rows)


if __name__ == "__main__":
    sys.exit(main())
