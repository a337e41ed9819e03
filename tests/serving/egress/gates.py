"""Gatekeepers of several gateways on one store with a controlled clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.egress.limits.breaker import ProviderOutcome
from serving.egress.limits.gatekeeper import Gatekeeper, ProviderAttempt
from serving.egress.limits.provider_limits import Denied, ProviderLimits
from serving.storage.valkey import Valkey
from tests.elapsed import Elapsed

__all__ = ["Gates", "attempt", "denied", "ended", "gates"]


@dataclass
class Gates:
    """Makes gatekeepers that share a store."""

    valkey: Any
    prefix: str
    made: list[Gatekeeper] = field(default_factory=list)
    elapsed: Elapsed = field(default_factory=Elapsed)

    def gatekeeper(self, limits: ProviderLimits | None = None, **options: Any) -> Gatekeeper:
        """Add a gateway whose provider `p` has those limits."""
        defaults: dict[str, Any] = {"prefix": self.prefix, "dice": lambda: 0.5}
        known = {} if limits is None else {"p": limits}
        self.made.append(Gatekeeper(self.valkey, known, **defaults | options))
        return self.made[-1]

    async def age(self, seconds: float) -> None:
        """Advance the shared clock."""
        milliseconds = round(seconds * 1000)
        await self.valkey.command("HINCRBY", f"{self.prefix}clock", "offset", milliseconds)


@pytest.fixture
async def gates(valkey: Valkey, valkey_prefix: str) -> AsyncIterator[Gates]:
    made = Gates(valkey, valkey_prefix)
    yield made
    for one in made.made:
        await one.close()


async def attempt(
    gatekeeper: Gatekeeper, *, provider: str = "p", model: str = "m", tokens: int = 10
) -> ProviderAttempt:
    """Enter, which must be allowed."""
    begun = await gatekeeper.begin(provider, model, tokens)
    assert isinstance(begun, ProviderAttempt), begun
    return begun


async def denied(
    gatekeeper: Gatekeeper, *, provider: str = "p", model: str = "m", tokens: int = 10
) -> Denied:
    """Return the refusal of an entry that must not be allowed."""
    refused = await gatekeeper.begin(provider, model, tokens)
    assert isinstance(refused, Denied)
    return refused


async def ended(gatekeeper: Gatekeeper, *outcomes: ProviderOutcome, **end: Any) -> None:
    """Make attempts one after another that end like this."""
    for outcome in outcomes:
        await (await attempt(gatekeeper)).end(outcome, **end)
