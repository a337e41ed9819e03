"""A full replica that is told to stop, and is then stopped by Ray Serve.

Usage: replica_stop_scenario.py LOG

A process of its own, because one process can be part of one Ray cluster only.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import ray
from ray import serve

from models.ray_compat import let_in_at_once, when_stopped

WAIT_S = 20


class Full:
    """Answers when it is told to stop, and logs events to a file."""

    def __init__(self, log: str) -> None:
        self._log = Path(log)
        self._stopped = asyncio.Event()
        let_in_at_once("urge")
        when_stopped(self._begin)

    def _note(self, what: str) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"{what}\n")

    def _begin(self) -> None:
        self._note("stopped by Ray Serve")
        self._stopped.set()

    async def urge(self) -> None:
        self._note("urged")

    async def __call__(self) -> str:
        self._note("asked")
        await self._stopped.wait()
        return "answered"

    async def __del__(self) -> None:
        self._note("closed")


async def main() -> None:
    log = Path(sys.argv[1])
    application = serve.deployment(
        Full,
        max_ongoing_requests=1,
        graceful_shutdown_timeout_s=WAIT_S,
        graceful_shutdown_wait_loop_s=0.1,
    ).bind(str(log))
    handle = serve.run(application, route_prefix=None)
    answer = asyncio.ensure_future(_result(handle))
    async with asyncio.timeout(WAIT_S):
        while not log.exists():  # noqa: ASYNC110, ASYNC240  Another process writes it.
            await asyncio.sleep(0.05)
        await handle.broadcast("urge").results_async(timeout_s=WAIT_S)
    await asyncio.to_thread(serve.delete, "default")
    print(await answer)  # noqa: T201  For whoever started this.


async def _result(handle: serve.handle.DeploymentHandle) -> str:
    answer: str = await handle.remote()
    return answer


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    serve.start(proxy_location="Disabled")
    asyncio.run(main())
    serve.shutdown()
    ray.shutdown()
