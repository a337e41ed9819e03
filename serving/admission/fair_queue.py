"""The queue before one model's engine: it bounds who waits, and shares turns fairly among tenants.

Whose turn it is follows the Virtual Token Counter (Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024, arXiv 2401.00588). Knows nothing of engines, requests or HTTP. For one
event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from itertools import chain
from operator import attrgetter

from serving.admission.pace import Pace
from serving.admission.slots import (
    Account,
    QueueFull,
    QueueOverloaded,
    QueueTimeout,
    Slot,
    SlotScope,
    Waiter,
)
from serving.domain.calls import Priority

BACKGROUND_TURN = 16
"""While both kinds wait, every 16th slot goes to background work, so that it never starves."""

RECENT_S = 60.0
"""How long after its last request a tenant is expected back, and its counter kept."""

HELD_BACK_FRACTION = 8
"""One slot in eight is held back for a tenant that is expected back; at least one of two."""

MAX_IDLE_TENANTS = 10_000
"""Tenants remembered with nothing running or waiting; the one idle for longest is dropped first."""

OVERLOADED_AFTER_S = 10.0
"""A queue that was not empty for this long is overloaded: more requests come than are served."""

_counter, _rank, _waiting = map(attrgetter, ("counter", "rank", "waiting"))


class FairQueue:
    """Lets `slots` requests run at once; the others wait for a turn, at most `max_waiting` of them.

    - A free slot goes to the waiting tenant that had the least service for its weight. Waiting for
      nothing banks nothing: who begins to wait is lifted to the least served of those that wait
      already or, if none does, to the tenant served last.
    - The last `max(1, slots // 8)` free slots are held back from a tenant that has its share, as
      long as another one was here in the last `RECENT_S` and has nothing waiting: a slot frees only
      when an answer ends, and that one should not have to wait for it. Background work does not
      get them unless its tenant is alone or its turn has come (`BACKGROUND_TURN`).

    Args:
        slots: how many run at once, at least 1.
        max_waiting: how many may wait; 0 means none.
        max_wait_s: the longest that one may wait. Who is predicted to wait longer is refused.
        overload_wait_s: the same for interactive requests while the queue has not been empty for
            `OVERLOADED_AFTER_S`: whoever is served then is served soon (as CoDel does; Maurer,
            "Fail at Scale", ACM Queue 13, 2015). Background work waits.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        slots: int,
        max_waiting: int,
        max_wait_s: float,
        overload_wait_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots is at least 1, not {slots}")
        self._slots = slots
        self._held_back = max(1, slots // HELD_BACK_FRACTION) if slots > 1 else 0
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._overload_wait_s = max_wait_s if overload_wait_s is None else overload_wait_s
        self._waiting_since = 0.0  # Somebody or other, without a break.
        self._clock = clock
        self._pace = Pace(window=max(8, 2 * slots))
        self._running = 0
        self._waiting = 0
        self._present = 0  # Tenants that have something waiting.
        self._accounts: dict[str, Account] = {}
        self._weights = 0.0  # Of all accounts.
        self._idle: OrderedDict[Account, float] = OrderedDict()  # Since when, the longest first.
        self._queues: dict[Priority, dict[Account, OrderedDict[Waiter, None]]] = {
            "interactive": {},
            "background": {},
        }
        self._served_last = Account("", 1.0)
        self._interactive_turns = 0  # Since background work that waits had one.
        self._lapse_timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return self._waiting

    def predicted_wait_s(self) -> float:
        """Predict the wait behind all waiting requests; a given tenant's may be shorter."""
        if self._waiting == 0 and self._running < self._slots:
            return 0.0
        return self._pace.wait_s(self._waiting, self._clock())

    def slot(
        self,
        tenant: str,
        *,
        weight: float = 1.0,
        priority: Priority = "interactive",
        cost: float = 1.0,
        timeout_s: float | None = None,
    ) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot for a scope, after waiting for it if need be.

        Args:
            tenant: on whose account.
            weight: of the tenant, above 0: its part of the service relative to others.
            priority: background work waits behind interactive work.
            cost: the estimate that counts until the scope ends, in the unit of `Slot.spend`.
            timeout_s: the longest this request waits, if less than `max_wait_s`.

        Raises:
            QueueFull: no room, too long a wait ahead, or pushed out while waiting.
            QueueTimeout: waited for as long as it may.
        """
        if weight <= 0:
            raise ValueError(f"weight is above 0, not {weight}")
        return SlotScope(self._take(tenant, weight, priority, cost, timeout_s), self._release)

    async def _take(
        self, tenant: str, weight: float, priority: Priority, cost: float, timeout_s: float | None
    ) -> Slot:
        now = self._clock()
        account = self._account(tenant, weight, now)
        if self._may_enter(account, priority):
            return self._enter(account, priority, cost, now)
        future = asyncio.get_running_loop().create_future()
        most_s = self._max_wait_s if timeout_s is None else min(self._max_wait_s, timeout_s)
        return await self._wait(Waiter(account, priority, cost, now, future), most_s)

    def _account(self, tenant: str, weight: float, now: float) -> Account:
        if self._idle:
            self._forget(now)
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant, 0.0)
        if account.weight != weight:
            self._weights += weight - account.weight
            account.weight = weight
        return account

    def _forget(self, now: float) -> None:
        """Drop the accounts that were idle for too long, and those that are too many."""
        while self._idle:
            account, since = next(iter(self._idle.items()))
            if now < since + RECENT_S and len(self._idle) <= MAX_IDLE_TENANTS:
                return
            del self._idle[account], self._accounts[account.name]
            # Rounding must not outlive the tenants that brought it.
            self._weights = self._weights - account.weight if self._accounts else 0.0

    def _may_enter(self, account: Account, priority: Priority) -> bool:
        """Whether there is a slot that this tenant may have, now."""
        free = self._slots - self._running
        if free <= 0 or free > self._held_back:
            return free > 0
        if priority == "background":
            return len(self._accounts) == 1
        # Shares add up to all slots: while one is free, whoever is absent lacks some of its own.
        absent = len(self._accounts) - self._present - (not account.waiting)
        return absent == 0 or account.running * self._weights < self._slots * account.weight

    def _enter(self, account: Account, priority: Priority, cost: float, now: float) -> Slot:
        """Take a slot without waiting."""
        self._lift(account, priority)
        slot = self._grant(account, priority, cost, now)
        if self._waiting:
            self._dispatch(now)
        return slot

    def _lift(self, account: Account, priority: Priority) -> None:
        """A tenant that was idle gains no credit. Estimates do not count: they may be far off."""
        queue = self._queues[priority]
        if account in queue:
            return
        level = min(map(_counter, queue)) if queue else self._served_last.counter
        account.counter = max(account.counter, level)

    def _grant(
        self, account: Account, priority: Priority, cost: float, now: float, waited_s: float = 0.0
    ) -> Slot:
        self._running += 1
        if self._running == self._slots:
            self._pace.busy(now)
        counts = priority == "interactive" and self._queues["background"]
        self._interactive_turns = self._interactive_turns + 1 if counts else 0
        self._idle.pop(account, None)
        self._served_last = account
        slot = Slot(waited_s, account, cost, cost / account.weight)
        account.running += 1
        account.pending += slot.charge
        return slot

    def _release(self, slot: Slot) -> None:
        now = self._clock()
        slot.account.counter += slot.cost / slot.account.weight
        self._pace.released(now, slot.cost)
        self._give_back(slot)
        self._rest(slot.account, now)
        if self._waiting:
            self._dispatch(now)
        if self._waiting:
            self._pace.busy(now)

    def _give_back(self, slot: Slot) -> None:
        account = slot.account
        self._running -= 1
        account.running -= 1
        account.pending = account.pending - slot.charge if account.running else 0.0

    def _rest(self, account: Account, now: float) -> None:
        """Begin to forget a tenant that has nothing running or waiting."""
        if not account.running and not account.waiting:
            self._idle.pop(account, None)
            self._idle[account] = now

    async def _wait(self, waiter: Waiter, most_s: float) -> Slot:
        try:
            self._lift(waiter.account, waiter.priority)
            self._make_room(waiter, most_s)
            self._append(waiter)
            self._dispatch(waiter.arrived_at)
            return await self._turn(waiter, most_s)
        finally:
            now = self._clock()
            self._rest(waiter.account, now)
            self._dispatch(now)

    async def _turn(self, waiter: Waiter, most_s: float) -> Slot:
        timer = asyncio.get_running_loop().call_later(most_s, self._time_out, waiter)
        try:
            answer = await waiter.future
        except asyncio.CancelledError:
            self._remove(waiter)
            if not waiter.future.cancelled() and isinstance(slot := waiter.future.result(), Slot):
                self._give_back(slot)
            raise
        finally:
            timer.cancel()
        if isinstance(answer, QueueOverloaded):
            raise answer
        return answer

    def _time_out(self, waiter: Waiter) -> None:
        if not waiter.future.done():
            self._remove(waiter)
            waiter.future.set_result(QueueTimeout(self.predicted_wait_s()))

    def _overloaded(self, waiter: Waiter) -> bool:
        """Whether more come than can be served, and this one is for somebody who looks on."""
        lasting = self._waiting and waiter.arrived_at - self._waiting_since > OVERLOADED_AFTER_S
        return bool(lasting) and waiter.priority == "interactive"

    def _make_room(self, waiter: Waiter, most_s: float) -> None:
        """Raise `QueueFull` if the waiter had better not wait, or push somebody out if it may."""
        if self._overloaded(waiter):
            most_s = min(most_s, self._overload_wait_s)
        wait_s = self._pace.wait_s(self._waiting, waiter.arrived_at)
        if wait_s > most_s:  # Behind all others; it may be ahead of some.
            ahead = self._ahead(waiter)
            wait_s = self._pace.wait_s(ahead, waiter.arrived_at)
            # The first in line is not refused: its turn is what corrects a prediction gone wrong.
            if ahead and wait_s > most_s:
                raise QueueFull(wait_s)
        if self._waiting >= self._max_waiting:
            self._push_out(waiter.account, wait_s)

    def _push_out(self, account: Account, wait_s: float) -> None:
        """Make the tenant with the most waiting give up its newest; background work first."""
        noisiest = max(chain(*self._queues.values()), key=_waiting, default=account)
        if noisiest.waiting <= account.waiting:
            raise QueueFull(wait_s)
        background = self._queues["background"].get(noisiest)
        newest = next(reversed(background or self._queues["interactive"][noisiest]))
        self._remove(newest)
        if not newest.future.done():
            newest.future.set_result(QueueFull(self.predicted_wait_s()))

    def _ahead(self, waiter: Waiter) -> float:
        """Count the waiting requests that come first, if requests cost what they did so far."""
        account, queue = waiter.account, self._queues[waiter.priority]
        own = len(queue.get(account, ()))
        rank = account.rank + own * self._pace.cost / account.weight
        ahead = own + sum(
            min(len(waiters), (rank - other.rank) * other.weight // self._pace.cost + 1)
            for other, waiters in queue.items()
            if other is not account and other.rank <= rank
        )
        if waiter.priority == "background":
            interactive = sum(map(len, self._queues["interactive"].values()))
            ahead += min(interactive, (ahead + 1) * (BACKGROUND_TURN - 1))
        return ahead

    def _append(self, waiter: Waiter) -> None:
        account = waiter.account
        self._queues[waiter.priority].setdefault(account, OrderedDict())[waiter] = None
        self._idle.pop(account, None)
        account.waiting += 1
        if self._waiting == 0:
            self._waiting_since = waiter.arrived_at
        self._waiting += 1
        self._present += account.waiting == 1
        self._pace.busy(waiter.arrived_at)

    def _remove(self, waiter: Waiter) -> None:
        """Take a waiter out of its queue, if it is still there."""
        queue = self._queues[waiter.priority]
        waiters = queue.get(waiter.account)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        if not waiters:
            del queue[waiter.account]
        waiter.account.waiting -= 1
        self._waiting -= 1
        self._present -= waiter.account.waiting == 0

    def _dispatch(self, now: float) -> None:
        """Give free slots to waiting requests that may have them. O(waiting tenants) for each."""
        self._forget(now)
        while self._running < self._slots and (waiter := self._next()):
            self._remove(waiter)
            if not waiter.future.done():
                waited_s = now - waiter.arrived_at
                slot = self._grant(waiter.account, waiter.priority, waiter.cost, now, waited_s)
                waiter.future.set_result(slot)
        self._watch(now)

    def _next(self) -> Waiter | None:
        """The oldest waiter of the tenant whose turn it is."""
        if self._interactive_turns >= BACKGROUND_TURN - 1 and self._queues["background"]:
            return self._first("background", list(self._queues["background"]))
        for priority, queue in self._queues.items():
            allowed = [account for account in queue if self._may_enter(account, priority)]
            if allowed:
                return self._first(priority, allowed)
        return None

    def _first(self, priority: Priority, accounts: list[Account]) -> Waiter:
        account = min(accounts, key=_rank)
        return next(iter(self._queues[priority][account]))

    def _watch(self, now: float) -> None:
        """See to it that a slot is not held back for longer than there is a reason."""
        held_back = self._waiting and self._running < self._slots
        if held_back and self._idle and self._lapse_timer is None:
            delay_s = next(iter(self._idle.values())) + RECENT_S - now
            loop = asyncio.get_running_loop()
            self._lapse_timer = loop.call_later(max(0.0, delay_s), self._lapse)

    def _lapse(self) -> None:
        self._lapse_timer = None
        self._dispatch(self._clock())
