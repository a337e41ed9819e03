"""Slots of a queue: who holds one, who waits for one on whose account, and why somebody gets none.

`fair_queue.py` decides whose turn it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from serving.domain.calls import Priority

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 120.0


class QueueOverloaded(Exception):
    """The request does not get a slot; `retry_after_s`, 1 to 120, is when it might.

    Overloaded
    ├── QueueFull       no room, too long a wait ahead, or pushed out for another tenant
    └── QueueTimeout    waited for as long as it may
    """

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = min(max(retry_after_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
        super().__init__(f"no slot; try again in {self.retry_after_s:.0f} s")


class QueueFull(QueueOverloaded):
    """No room, a predicted wait over the bound, or pushed out for a tenant with fewer waiting."""


class QueueTimeout(QueueOverloaded):
    """Waited for as long as it may."""


@dataclass(slots=True, eq=False)
class Account:
    """A tenant seen recently. Service is in units of cost, divided by the weight.

    `counter` is service of requests that ended, `pending` the estimates of those that run.
    """

    name: str
    weight: float
    counter: float = 0.0
    pending: float = 0.0
    running: int = 0
    waiting: int = 0

    @property
    def rank(self) -> float:
        """The smallest rank among those that wait has the next turn."""
        return self.counter + self.pending


@dataclass(slots=True, eq=False)
class Slot:
    """A right to run, held for the scope that yielded it. `waited_s` is how long it took."""

    waited_s: float
    account: Account
    cost: float
    charge: float

    def spend(self, cost: float) -> None:
        """Tell the real cost; it replaces the estimate when the scope ends."""
        self.cost = cost


class SlotScope(AbstractAsyncContextManager[Slot]):
    """Takes a slot and releases it. `asynccontextmanager` alone would cost more than all else."""

    __slots__ = ("_release", "_slot", "_taking")

    def __init__(self, taking: Coroutine[Any, Any, Slot], release: Callable[[Slot], None]) -> None:
        self._taking = taking
        self._release = release

    async def __aenter__(self) -> Slot:
        self._slot = await self._taking
        return self._slot

    async def __aexit__(self, *_: object) -> None:
        self._release(self._slot)


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits. The future gets its slot, or the reason why there is none."""

    account: Account
    priority: Priority
    cost: float
    arrived_at: float
    future: asyncio.Future[Slot | QueueOverloaded]
