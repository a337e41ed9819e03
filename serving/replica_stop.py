"""When Ray Serve stops a replica by itself, as it does to scale down and to deploy anew.

User code of Ray 2.60 hears of that when every request has ended, and not at all where one does not
end in time: the replica is killed then.
"""

from __future__ import annotations

from collections.abc import Callable

from ray.serve._private import replica


def when_stopped(begin: Callable[[], object]) -> None:
    """Have `begin` called when Ray Serve begins to stop this process's replica."""
    graceful = replica.Replica.perform_graceful_shutdown

    async def told(self: replica.Replica) -> None:
        begin()
        await graceful(self)

    replica.Replica.perform_graceful_shutdown = told
