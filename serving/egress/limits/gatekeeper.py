"""Who may begin an attempt at a provider: breakers and the provider's limits, over all gateways.

One script (`gate.lua`), on Valkey's own clock, asks both and reserves in one piece. What was
reserved by a gateway that died is free when its lease ends, a probe's place too. Knows nothing of
HTTP, or of what is sent.

While Valkey is away nobody knows what other gateways do. So a provider with limits gets nothing
then, one without is used as far as this gateway's own breaker allows, and no probe is made.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import orjson

from models.background import BackgroundLoop
from serving.egress.limits.breaker import RULES, BreakerRules, LocalBreakers, ProviderOutcome
from serving.egress.limits.provider_limits import (
    REASONS,
    RESET_S,
    Denied,
    Left,
    ProviderLimits,
    Reservation,
)
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey, script

PREFIX = "{ringfence}:egress:"
"""Prefix of every key in Valkey."""

LEASE_S = 15.0
"""After this time without a heartbeat, the attempts of a gateway are given up."""

HEARTBEAT_S = 3.0
AWAY_S = 1.0
"""When to ask again while Valkey is away."""

SPREAD = 0.2
"""Cooldowns vary by up to this part, so that not all end at once."""

_SCRIPT = script(Path(__file__).parent / "gate.lua")


class ProviderAttempt:
    """The right to send one request to a provider. Its holder ends it, once.

    As a context manager it ends as `abandoned` what nobody has ended.
    """

    def __init__(self, gatekeeper: Gatekeeper, reservation: Reservation, *, is_probe: bool) -> None:
        self._gatekeeper = gatekeeper
        self._reservation = reservation
        self._ended = False
        self.is_probe = is_probe
        """Whether this attempt decides if the breaker closes."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end("abandoned")

    def hear(self, left: Left) -> None:
        """Pass on the limits that came with the provider's first bytes. Does not wait."""
        self._gatekeeper.hear(self._reservation, left)

    async def end(
        self,
        outcome: ProviderOutcome,
        *,
        tokens_used: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        """Tell how it ended. It counts even if the caller is cancelled; only the first call does.

        Args:
            outcome: `completed` after the proper end of the answer only.
            tokens_used: prompt and answer; None: as many as were reserved.
            retry_after_s: what the provider asked for.
        """
        if self._ended:
            return
        self._ended = True
        await self._gatekeeper.finish(
            self._reservation, outcome, tokens_used=tokens_used, retry_after_s=retry_after_s
        )


class Gatekeeper:
    """Begins attempts at providers, for one gateway.

    Args:
        valkey: shared by all gateways.
        limits: of providers, by name.
        rules: of all breakers.
        prefix: of every key; tests take their own.
        lease_s: see `LEASE_S`.
        heartbeat_s: how often Valkey hears of attempts that run.
        clock: seconds that never go back.
        dice: evenly from 0 to 1.
    """

    def __init__(
        self,
        valkey: Valkey,
        limits: Mapping[str, ProviderLimits],
        *,
        rules: BreakerRules = RULES,
        prefix: str = PREFIX,
        lease_s: float = LEASE_S,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._valkey = valkey
        self._limits = limits
        self._rules = rules
        self._prefix = prefix
        self._lease_ms = round(lease_s * 1000)
        self._dice = dice
        self._own = LocalBreakers(rules, clock)
        self._live: dict[str, str] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self.loop = BackgroundLoop(
            "provider_leases", self._renew, every_s=heartbeat_s, longest_s=heartbeat_s
        )

    def start(self) -> None:
        """Begin to renew leases. Without it an attempt is given up for lost after one."""
        self.loop.start()

    async def close(self) -> None:
        """Send the outstanding steps, each with the deadline of a call."""
        await self.loop.close()
        if self._sending:
            await asyncio.wait(self._sending)

    async def begin(self, provider: str, model: str, tokens: int) -> ProviderAttempt | Denied:
        """Reserve an attempt, or return the reason against it. All or nothing, without waiting.

        Args:
            provider: its name.
            model: as the provider calls it.
            tokens: prompt and answer at most.
        """
        wanted = Reservation(uuid4().hex, provider, model, tokens)
        limits = self._limits.get(provider, ProviderLimits())
        try:
            reply = await self._asked("begin", wanted, limits)
        except ValkeyUnavailable:
            return self._begin_alone(wanted, limits)
        match reply:
            case ["granted", int(made_ms), is_probe]:
                return self._granted(replace(wanted, made_ms=made_ms), is_probe=is_probe == 1)
            case [str(reason), wait_ms] if reason in REASONS:
                return self._denied(wanted, Denied(reason, wait_ms / 1000))  # type: ignore[arg-type]
        return self._begin_alone(wanted, limits)

    async def would_begin(self, provider: str, model: str, tokens: int) -> bool:
        """Whether `begin` would reserve an attempt now. Nothing is reserved."""
        wanted = Reservation(uuid4().hex, provider, model, tokens)
        limits = self._limits.get(provider, ProviderLimits())
        try:
            reply = await self._asked("ask", wanted, limits)
        except ValkeyUnavailable:
            return isinstance(self._begin_alone(wanted, limits), ProviderAttempt)
        return bool(reply[0] == "granted")

    def hear(self, reservation: Reservation, left: Left) -> None:
        """See `ProviderAttempt.hear`."""
        told = {
            "requests": self._until(left.requests, left.requests_reset_s),
            "tokens": self._until(left.tokens, left.tokens_reset_s),
        }
        known = {what: one for what, one in told.items() if one is not None}
        if known:
            self._send("tell", reservation, left=known)

    async def finish(
        self,
        reservation: Reservation,
        outcome: ProviderOutcome,
        *,
        tokens_used: int | None,
        retry_after_s: float | None,
    ) -> None:
        """See `ProviderAttempt.end`."""
        self._live.pop(reservation.id, None)
        self._own.count(reservation.target, outcome)
        asked_s = retry_after_s or None  # To be asked for no time is not to be asked.
        if outcome == "throttled" or (outcome == "failed" and asked_s):
            self._own.let_rest(reservation.provider, asked_s)
        sending = self._send(
            "end",
            reservation,
            outcome=outcome,
            used=_or_none(tokens_used),
            retry_after=-1 if asked_s is None else _milliseconds(asked_s),
            **self._terms(),
        )
        await asyncio.shield(sending)

    def _granted(self, reservation: Reservation, *, is_probe: bool) -> ProviderAttempt:
        if not is_probe:
            self._own.learn(reservation.target, is_open=False)
        self._live[reservation.id] = reservation.provider
        return ProviderAttempt(self, reservation, is_probe=is_probe)

    def _denied(self, wanted: Reservation, denied: Denied) -> Denied:
        if denied.reason in ("open", "probing"):
            self._own.learn(wanted.target, is_open=True)
        if denied.reason == "resting":
            self._own.let_rest(wanted.provider, denied.retry_after_s)
        return denied

    def _begin_alone(self, wanted: Reservation, limits: ProviderLimits) -> ProviderAttempt | Denied:
        """Begin while the other gateways' use is unknown."""
        if rests_s := self._own.rests_s(wanted.provider):
            return Denied("resting", rests_s)
        if self._own.is_open(wanted.target):
            return Denied("open", AWAY_S)
        if not limits.is_empty:
            return Denied("unshared", AWAY_S)
        return ProviderAttempt(self, wanted, is_probe=False)

    def _until(self, count: int | None, reset_s: float | None) -> tuple[int, int] | None:
        """Return the rest of a limit, and for how many milliseconds it holds."""
        if count is None:
            return None
        span_s = RESET_S if reset_s is None else reset_s
        return count, _milliseconds(min(span_s, self._rules.max_cooldown_s))

    def _terms(self) -> dict[str, Any]:
        """The breakers' rules, as the script has them."""
        rules = self._rules
        return {
            "failures_in_row": rules.failures_in_row,
            "failure_rate": rules.failure_rate,
            "least_outcomes": rules.least_outcomes,
            "window": _milliseconds(rules.window_s),
            "cooldown": _milliseconds(rules.cooldown_s),
            "max_cooldown": _milliseconds(rules.max_cooldown_s),
            "spread": 1 - SPREAD + 2 * SPREAD * self._dice(),
        }

    def _send(self, do: str, reservation: Reservation, **fields: Any) -> asyncio.Task[None]:
        """Run a step whose reply does not matter. If it is lost, leases make it good."""
        task = asyncio.create_task(self._try(do, reservation, **fields))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _try(self, do: str, reservation: Reservation, **fields: Any) -> None:
        with suppress(ValkeyUnavailable):
            await self._run(do, reservation, **fields)

    async def _asked(self, do: str, wanted: Reservation, limits: ProviderLimits) -> Any:
        bounds = [_or_none(one) for one in limits.bounds]
        return await self._run(do, wanted, limits=bounds, lease=self._lease_ms)

    async def _run(self, do: str, reservation: Reservation, **fields: Any) -> Any:
        step = {
            "do": do,
            "id": reservation.id,
            "provider": reservation.provider,
            "target": reservation.target,
            "tokens": reservation.tokens,
            "made": reservation.made_ms,
        }
        return await self._script(step | fields)

    async def _script(self, step: dict[str, Any]) -> Any:
        return orjson.loads(await self._valkey.run(_SCRIPT, self._prefix, orjson.dumps(step)))

    async def _renew(self) -> None:
        attempts = [(provider, id_) for id_, provider in self._live.items()]
        await self._script({"do": "renew", "attempts": attempts, "lease": self._lease_ms})


def _or_none(number: int | None) -> int:
    return -1 if number is None else number


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
