"""Why a request was answered by whom: what was considered and tried. Counts and reasons, no text.

Attempts come from the usage ledger; what was considered and not tried is kept in Valkey for a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import orjson

from serving.accounting.usage import AttemptHistory, AttemptRecord
from serving.domain.privacy_class import PrivacyClass
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey

KEPT_S = 86_400


@dataclass(frozen=True, slots=True)
class Considered:
    """A target that was considered. `reason` says why it was not chosen, or how it failed.

    `detail` is a sentence more, if there is one.
    """

    route: str
    reason: str | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How the target was found: the request's class, the trigger, and every target in order.

    `trigger` is the reason to look beyond the model here, if there was one.
    """

    privacy: PrivacyClass
    trigger: str | None
    considered: Sequence[Considered]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of a request."""

    decision: Decision | None
    attempts: Sequence[AttemptRecord]


class Explanations:
    """Explanations of requests, shared by all gateways.

    Args:
        valkey: where decisions are kept.
        history: of attempts.
        prefix: of names in Valkey.
    """

    def __init__(self, valkey: Valkey, history: AttemptHistory, *, prefix: str) -> None:
        self._valkey = valkey
        self._history = history
        self._prefix = f"{prefix}decision:"

    async def keep(self, tenant: str, request_id: str, decision: Decision) -> None:
        """Keep a decision for a day. If that fails, only the explanation is missing."""
        with suppress(ValkeyUnavailable):
            told = orjson.dumps(asdict(decision))
            await self._valkey.command("SET", self._name(tenant, request_id), told, "EX", KEPT_S)

    async def of(self, tenant: str, request_id: str) -> Explanation | None:
        """Return the explanation of a tenant's request; None if there is none.

        Raises:
            DatabaseUnavailable: it cannot be told now.
        """
        attempts = await self._history.attempts_of(tenant, request_id)
        decision = None
        with suppress(ValkeyUnavailable):
            decision = _decision(await self._valkey.command("GET", self._name(tenant, request_id)))
        return Explanation(decision, attempts) if attempts or decision else None

    def _name(self, tenant: str, request_id: str) -> str:
        return f"{self._prefix}{tenant}:{request_id}"


def _decision(told: bytes | None) -> Decision | None:
    if told is None:
        return None
    row = orjson.loads(told)
    return Decision(
        row["privacy"], row["trigger"], [Considered(**one) for one in row["considered"]]
    )
