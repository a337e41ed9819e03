"""Stopping a replica of Ray Serve 2.60, of which its user code hears late or not at all.

Ray Serve stops replicas by itself, to scale down and to deploy anew. It tells user code when every
request has ended; where one does not end in time the replica is killed. A call for it to stop waits
for its turn like any request, which never comes while `max_ongoing_requests` streams are open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ray.serve._private import replica
from ray.serve._private.common import RequestMetadata


def when_stopped(begin: Callable[[], object]) -> None:
    """Have `begin` called when Ray Serve begins to stop this process's replica."""
    graceful = replica.Replica.perform_graceful_shutdown

    async def told(self: replica.Replica) -> None:
        begin()
        await graceful(self)

    replica.Replica.perform_graceful_shutdown = told


def let_in_at_once(method: str) -> None:
    """Have calls of this method take no place among the requests of this process's replica."""
    start = replica.Replica._start_request  # noqa: SLF001

    @asynccontextmanager
    async def started(self: replica.Replica, request: RequestMetadata) -> AsyncIterator[None]:
        if request.call_method == method:
            yield
            return
        async with start(self, request):
            yield

    replica.Replica._start_request = started  # noqa: SLF001
