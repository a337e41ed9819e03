"""Reservations in Valkey: what requests may use is taken before they run and settled after.

All gateways share one state, changed by one script (`admission.lua`) on Valkey's own clock. A
gateway sends a batch of operations at a time; whatever comes meanwhile goes with the next one, so
that under load many requests share a round trip. A batch that was not answered is sent again under
its number, which the script counts once. Knows nothing of HTTP, prices or where limits come from.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import orjson

from models.background import BackgroundLoop
from serving.admission.demand import (
    NEVER_RAN,
    Budget,
    Demand,
    LimitReached,
    OverBudget,
    RateLimits,
    Settlement,
    Uninitialised,
    Verdict,
)
from serving.domain.quota import Headroom, Quota
from serving.storage.errors import ValkeyNotAsked, ValkeyUnavailable
from serving.storage.valkey import PREFIX, Valkey, script

logger = logging.getLogger("ringfence.reservations")

LEASE_S = 15.0
"""After this time without a heartbeat, what a gateway held is free again."""

HEARTBEAT_S = 3.0
RETRY_S = 0.25
HOLD_AFTER_S = 0.25
MAX_UNSETTLED = 100_000
"""Settlements that wait for Valkey to come back. Above it no request is let in."""

_AS_ROWS = orjson.OPT_PASSTHROUGH_DATACLASS

_SCRIPT = script(Path(__file__).parent / "admission.lua")


@dataclass(frozen=True, slots=True)
class _Live:
    """A request that runs, and when it was let in by Valkey's clock."""

    demand: Demand
    made_ms: int = 0


@dataclass(slots=True)
class _Operation:
    """An operation in a batch, and the future that waits for its reply."""

    content: dict[str, Any]
    reply: asyncio.Future[Any]

    @property
    def settles(self) -> bool:
        return bool(self.content["do"] == "settle")


class Reservations:
    """The reservations of one gateway.

    Args:
        valkey: shared by all gateways.
        prefix: of every key; tests take their own.
        lease_s: see `LEASE_S`.
        heartbeat_s: how often Valkey hears of this gateway when nothing else is sent.
    """

    def __init__(
        self,
        valkey: Valkey,
        *,
        prefix: str = PREFIX,
        lease_s: float = LEASE_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._valkey = valkey
        self._prefix = prefix
        self._lease_ms = round(lease_s * 1000)
        self._heartbeat_s = heartbeat_s
        self._gateway = uuid4().hex
        self._number = 0
        self._queue: list[_Operation] = []
        self._unanswered: list[_Operation] = []
        self._live: dict[str, _Live] = {}
        self._unheld: dict[str, Demand] = {}
        self._holding: asyncio.TimerHandle | None = None
        self._flying: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self.loop = BackgroundLoop(
            "admission_leases", self._beat, every_s=self._pause_s, longest_s=RETRY_S
        )

    def start(self) -> None:
        """Begin to be heard of. Without it the lease runs out between requests."""
        self.loop.start()

    async def close(self) -> None:
        """Send the rest, at most for the time of one more batch."""
        await self.loop.close()
        if self._holding is not None:
            self._holding.cancel()
        self._depart()
        if self._flying is not None:
            await asyncio.wait({self._flying})

    @property
    def available(self) -> bool:
        """Whether the last batch was answered."""
        return self._failure is None

    @property
    def is_full(self) -> bool:
        """Whether so much waits for Valkey that no request should be let in any more."""
        return len(self._queue) + len(self._unanswered) > MAX_UNSETTLED

    @property
    def unsettled(self) -> int:
        """Settlements on their way, or waiting for Valkey."""
        return sum(one.settles for one in [*self._unanswered, *self._queue])

    def unsettled_rows(self) -> list[str]:
        """Ledger rows of settlements that Valkey has not confirmed."""
        rows = (one.content["row"] for one in [*self._unanswered, *self._queue] if one.settles)
        return [row for row in rows if row is not None]

    async def reserve(self, demand: Demand) -> Verdict:
        """Take what a request may use, or say which limit or budget forbids it. All or nothing.

        Raises:
            ValkeyUnavailable: nothing is known, and nothing will be held.
        """
        try:
            reply = await self._submit(_asked("reserve", demand))
        except (asyncio.CancelledError, ValkeyUnavailable) as error:
            if not isinstance(error, ValkeyNotAsked):
                self.settle(demand, NEVER_RAN)  # It was made, or it will be.
            raise
        verdict, made_ms = _verdict(reply)
        if isinstance(verdict, Quota):
            self._live[demand.id] = _Live(demand, made_ms)
        return verdict

    async def look(self, demand: Demand) -> Verdict:
        """What `reserve` would say of the demand's limits now. Nothing is taken.

        Raises:
            ValkeyUnavailable: nothing is known.
        """
        return _verdict(await self._submit(_asked("look", demand)))[0]

    def hold(self, demand: Demand) -> None:
        """Note a request that no limit applies to, so that it is not lost if this process is.

        One that ends within `HOLD_AFTER_S` is not worth a word before its settlement.
        """
        self._live[demand.id] = _Live(demand)
        self._unheld[demand.id] = demand
        if self._holding is None:
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(HOLD_AFTER_S, self._hold_all)

    def _hold_all(self) -> None:
        self._holding = None
        demands, self._unheld = self._unheld, {}
        self._queue += map(_again, demands.values())
        self._depart()

    def settle(self, demand: Demand, settlement: Settlement) -> asyncio.Future[Any]:
        """Replace the reservation by the actual use. It happens even if nobody waits for it.

        Returns:
            Done when Valkey has it; fails with `ValkeyUnavailable` when that will be later.
        """
        live = self._live.pop(demand.id, None)
        if self._unheld.pop(demand.id, None) and settlement is NEVER_RAN:
            return _done()  # Valkey has not heard of it.
        content = {
            "do": "settle",
            "id": demand.id,
            "tokens": demand.tokens,
            "cost": demand.cost_nanos,
            "limits": demand.limits,
            "budgets": demand.budgets,
            "made": 0 if live is None else live.made_ms,
            "used": settlement.tokens,
            "spent": settlement.cost_nanos,
            "sums": demand.sums,
            "row": settlement.row,
            "keep": settlement.kept,
        }
        return self._submit(content)

    async def initialise(self, budget: Budget, spent_nanos: int, *, version: int) -> None:
        """Tell what was spent of a budget, unless somebody has, or it has moved since.

        Raises:
            ValkeyUnavailable: it may or may not be known now.
        """
        content = {
            "do": "initialise",
            "name": budget.name,
            "spent": spent_nanos,
            "version": version,
            "keep_s": budget.keep_s,
        }
        await self._submit(content)

    def _submit(self, content: dict[str, Any]) -> asyncio.Future[Any]:
        reply = asyncio.get_running_loop().create_future()
        reply.add_done_callback(_look_at)
        self._queue.append(_Operation(content, reply))
        self._depart()
        return reply

    def _depart(self) -> None:
        if self._flying is None or self._flying.done():
            self._flying = asyncio.create_task(self._fly())

    async def _fly(self) -> None:
        """Send what waits, batch by batch, until nothing does or Valkey is away."""
        while True:
            if self._unanswered:  # Sent before, and perhaps done: the same again, first.
                batch = self._unanswered
            else:
                batch, self._queue = self._queue, []
                self._number += 1
            try:
                known = await self._send(batch)
            except Exception as error:  # noqa: BLE001  Who waits is told, whatever it was.
                self._failed(batch, error)
                return
            self._unanswered = []
            if not known or not self.available:
                self._queue += [_again(live.demand) for live in self._live.values()]
            self._failure = None
            if not self._queue:
                return

    async def _send(self, batch: list[_Operation]) -> bool:
        """Send one batch. Returns whether Valkey knew this gateway."""
        replies = await self._valkey.run(
            _SCRIPT,
            self._prefix,
            self._gateway,
            self._number,
            self._lease_ms,
            orjson.dumps([one.content for one in batch], default=_row, option=_AS_ROWS),
        )
        known, *told = orjson.loads(replies)
        # None of them when an earlier try of this batch was done after all.
        for one, reply in zip(batch, told, strict=False):
            if reply == ["failed"]:
                logger.error("Valkey could not %s a request", one.content["do"])
            if not one.reply.done():
                one.reply.set_result(reply)
        return bool(known) or self._number == 1

    def _failed(self, batch: list[_Operation], error: Exception) -> None:
        """Tell everybody who waits. Settlements stay, for the next batch."""
        self._failure = error
        if not isinstance(error, ValkeyUnavailable):
            error = ValkeyUnavailable(f"Valkey's reply was of no use: {type(error).__name__}")
        for one in batch:
            if not one.reply.done():
                one.reply.set_exception(error)
        for one in self._queue:
            if not one.reply.done():
                one.reply.set_exception(ValkeyNotAsked(str(error)))
        self._unanswered = [one for one in batch if one.settles]
        self._queue = [one for one in self._queue if one.settles]

    def _pause_s(self) -> float:
        return self._heartbeat_s if self.available else RETRY_S

    async def _beat(self) -> None:
        self._depart()
        if self._flying is not None:
            await asyncio.wait({self._flying})
        if self._failure is not None:
            raise self._failure


def _done() -> asyncio.Future[Any]:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


def _look_at(reply: asyncio.Future[Any]) -> None:
    """Mark a failure as seen. Its operation is sent again."""
    if not reply.cancelled():
        reply.exception()


def _again(demand: Demand) -> _Operation:
    reply = asyncio.get_running_loop().create_future()
    reply.add_done_callback(_look_at)
    return _Operation(_asked("restore", demand), reply)


def _asked(do: Literal["look", "reserve", "restore"], demand: Demand) -> dict[str, Any]:
    held = {
        "cost": demand.cost_nanos,
        "limits": demand.limits,
        "budgets": demand.budgets,
        "facts": demand.facts,
    }
    return {
        "do": do,
        "id": demand.id,
        "tokens": demand.tokens,
        "cost": demand.cost_nanos,
        "limits": demand.limits,
        "budgets": demand.budgets,
        "held": orjson.dumps(held, default=_row, option=_AS_ROWS).decode(),
    }


def _row(value: Any) -> tuple[Any, ...]:
    """A limit or a budget as the script has it."""
    if isinstance(value, RateLimits):
        return value.subject, *map(_or_none, value.bounds)
    if isinstance(value, Budget):
        return value.name, value.limit_nanos, value.keep_s
    raise TypeError


def _or_none(bound: int | None) -> int:
    return -1 if bound is None else bound


def _verdict(reply: list[Any]) -> tuple[Verdict, int]:
    """Read Valkey's reply, and when it admitted a request."""
    match reply:
        case ["granted", made_ms, *numbers]:
            return _quota(numbers), made_ms
        case _:
            return _refusal(reply), 0


def _refusal(reply: list[Any]) -> Verdict:
    match reply:
        case ["refused", measure, subject, wait_ms, *numbers]:
            return LimitReached(measure, subject, wait_ms / 1000, _quota(numbers))
        case ["uninitialised", budget, version]:
            return Uninitialised(budget, version)
        case [what, budget]:
            return OverBudget(budget, in_flight=what == "reserved")
    raise ValkeyUnavailable("Valkey replied with what no script of ours says")


def _quota(numbers: list[int]) -> Quota:
    return Quota(_headroom(*numbers[:3]), _headroom(*numbers[3:]))


def _headroom(limit: int, remaining: int, reset_ms: int) -> Headroom | None:
    return None if limit < 0 else Headroom(limit, remaining, reset_ms / 1000)
