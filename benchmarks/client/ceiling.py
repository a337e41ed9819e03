"""`python -m benchmarks.client.ceiling`: chunks per second that the load client can receive.

Near its ceiling, a client measures itself. The client is fed by a server that only streams, and
the chunks per second of wall time and of client CPU time are printed. This is the best case, as
one read of a full socket returns many chunks; `client_cpu_s` of a result tells the real cost.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import process_time

from benchmarks.client.load_client import Target, closed_loop, encode_chat
from benchmarks.client.prompts import prompts
from benchmarks.gateways.arms import token_stream
from benchmarks.running.arms import API_KEY, HOST
from benchmarks.running.ports import free_port
from benchmarks.running.processes import running
from benchmarks.servers.steps import Pace

STREAMS = 16
REQUESTS = 64
TOKENS = 500
DEADLINE_S = 60.0


class CeilingError(RuntimeError):
    """The trivial server's answers could not be read, so the ceiling is unknown."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Token-bearing chunks per second of wall time, and per second of the client's CPU time."""

    chunks_per_s: float
    chunks_per_cpu_s: float


def measure_ceiling(*, requests: int = REQUESTS) -> Ceiling:
    """Send `STREAMS` streams to the client as fast as it reads them.

    Raises:
        CeilingError: A request fails.
    """
    arm = token_stream(Pace(), port=free_port(), name="token-stream")
    target = Target(host=HOST, port=arm.port, model=arm.model, api_key=API_KEY)
    encoded = [
        encode_chat(target, text, max_tokens=TOKENS) for text in prompts(requests, seed=0, series=0)
    ]
    with tempfile.TemporaryDirectory() as logs, running(arm, log_dir=Path(logs)):
        before_s = process_time()
        loop = closed_loop(target, encoded, streams=STREAMS, deadline_s=DEADLINE_S)
        records = asyncio.run(loop)
        cpu_s = process_time() - before_s
    for record in records:
        if record.error:
            raise CeilingError(record.error)
    chunks = sum(len(record.event_times_s) for record in records)
    wall_s = max(r.end_s for r in records) - min(r.start_s for r in records)
    return Ceiling(chunks_per_s=chunks / wall_s, chunks_per_cpu_s=chunks / cpu_s)


def main() -> int:
    """Print the ceiling."""
    ceiling = measure_ceiling()
    sys.stdout.write(
        f"load client: {ceiling.chunks_per_s:,.0f} chunks/s, "
        f"{ceiling.chunks_per_cpu_s:,.0f} chunks per CPU second\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
