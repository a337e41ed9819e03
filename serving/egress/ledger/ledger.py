"""The ledger of everything that leaves: who got how many bytes, of which class, for which request.

An entry is written before the first byte goes, and a second one when the attempt has ended. No
entry is ever changed; `chain` says how they hang together. No text is in any of them.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import orjson

from models.background import BackgroundLoop, close_all
from serving.domain.privacy_class import PrivacyClass
from serving.egress.ledger.appender import Appender
from serving.egress.ledger.chain import Draft, Entry, facts_json
from serving.egress.ledger.chain_store import ChainStore, CheckpointRules, utc_text
from serving.egress.ledger.errors import LedgerUnavailable
from serving.egress.ledger.reading import Crossing, crossings_of
from serving.storage.database import Database
from serving.storage.leftovers import NOWHERE, THREADS, Leftover, Leftovers, lines_of

logger = logging.getLogger("ringfence.egress")

NOT_SENT = "not_sent"
"""Outcome of an attempt whose entry came too late: it was given up, and nothing left."""

RESUME_AGAIN_S = 1.0
"""The pause before kept entries that could not be read are looked for again."""

_LABEL = b"ringfence egress body 1"


@dataclass(frozen=True, slots=True)
class DepartureFacts:
    """The facts that are known before the first byte leaves.

    Attributes:
        request_id: of the client's request.
        attempt_id: of this try; one request may have several.
        tenant: whose request it is.
        key_id: with which key.
        provider: its name in the configuration.
        host: where the connection goes.
        path: of the URL, without its query.
        model: as the provider calls it.
        privacy: the class of the request.
        entities: how many of each type were replaced.
        policy: the version of what is done to personal data.
    """

    request_id: str
    attempt_id: str
    tenant: str
    key_id: str
    provider: str
    host: str
    path: str
    model: str
    privacy: PrivacyClass
    policy: str
    entities: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArrivalFacts:
    """How an attempt ended.

    Attributes:
        outcome: one word, as in the usage ledger.
        prompt_tokens: as the provider counts them.
        completion_tokens: as the provider counts them.
        cost_nanos: billionths of the currency.
        received_bytes: length of the answer's HTTP body as far as it was read, a refusal's
            too: after TLS and the framing of HTTP, without status line and headers.
        duration_ms: from the beginning of the attempt to its end.
    """

    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanos: int = 0
    received_bytes: int = 0
    duration_ms: int = 0


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


class EgressLedger:
    """The ledger as one gateway writes it.

    Args:
        database: holds it.
        secret: the server secret; bodies are known by an HMAC under a key derived from it.
        rules: when its head is signed, and by whom.
        leftovers: keeps the ends of attempts that a stop cannot write.
        write_timeout_s: how long an entry may take; after it nothing leaves.
        now: the wall clock.
    """

    def __init__(
        self,
        database: Database,
        secret: bytes,
        rules: CheckpointRules,
        *,
        leftovers: Leftovers = NOWHERE,
        write_timeout_s: float = 2.0,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._key = hmac.digest(secret, _LABEL, "sha256")
        self._write_timeout_s = write_timeout_s
        self._now = now
        store = ChainStore(database, rules, now=now)
        self._appender = Appender(store, rules)
        self._leftovers = leftovers
        self.loops = (
            BackgroundLoop("egress_signing", self._appender.checkpoint, every_s=rules.every_s),
            BackgroundLoop(
                "egress_resume", self._resume, every_s=RESUME_AGAIN_S, at_once=True, once=True
            ),
        )

    def start(self) -> None:
        """Begin to sign the head while nothing is appended."""
        for loop in self.loops:
            loop.start()

    async def close(self) -> tuple[list[Leftover], bool]:
        """Write the remaining entries, sign the head, and stop. Takes a few seconds at most.

        Returns:
            What could not be written, and whether the head is signed.
        """
        for loop in self.loops:
            loop.cancel()
        left, signed = await self._appender.close(timeout_s=self._write_timeout_s)
        lines = [orjson.dumps(asdict(draft)).decode() for draft in left]
        kept = await THREADS.run(self._leftovers.keep, lines)  # Before anything that waits.
        await self._appender.ended()
        await close_all(self.loops)
        return kept, signed

    def body_hmac(self, body: bytes) -> str:
        """HMAC-SHA256 in hex: with the secret one can check whether these bytes left."""
        return hmac.digest(self._key, body, "sha256").hex()

    async def depart(self, facts: DepartureFacts, body: bytes) -> Entry:
        """Record that exactly these bytes are about to leave; they may when this returns.

        An entry of an attempt that was given up meanwhile, or came too late, is followed by an
        arrival `not_sent`.

        Raises:
            LedgerUnavailable: it cannot be recorded now. Nothing may leave.
        """
        written = self._appender.append(self._departure(facts, body))
        recorded = False
        try:
            async with asyncio.timeout(self._write_timeout_s):
                entry = await asyncio.shield(written)
            recorded = True
        except TimeoutError:
            raise LedgerUnavailable(
                "the record of what leaves could not be written in time"
            ) from None
        finally:
            if not recorded:
                self._appender.withdraw(written)
                written.add_done_callback(self._tell_not_sent)
        return entry

    async def arrive(self, departure: Entry, facts: ArrivalFacts) -> None:
        """Record the end of an attempt, once, however often this is called.

        It is handed in before this waits, so a caller that is cancelled has recorded it too. One
        that cannot be written now is kept and tried again for as long as the gateway lives.
        """
        written = self._appender.append(self._arrival(departure, facts), keep=True)
        await asyncio.wait([written], timeout=self._write_timeout_s)
        if not written.done():
            logger.warning("the end of attempt %s waits for the ledger", departure.attempt_id)

    async def of_request(self, request_id: str, tenant: str) -> list[Crossing]:
        """Return what left for a request of a tenant, in order.

        Raises:
            DatabaseUnavailable: it cannot be told now.
        """
        return await crossings_of(self._database, request_id, tenant)

    def _departure(self, facts: DepartureFacts, body: bytes) -> Draft:
        told = asdict(facts) | {"body_hmac": self.body_hmac(body), "body_bytes": len(body)}
        ids = {name: told.pop(name) for name in ("request_id", "attempt_id", "tenant")}
        return Draft(kind="departure", at=utc_text(self._now()), facts=facts_json(told), **ids)

    def _arrival(self, departure: Entry, facts: ArrivalFacts) -> Draft:
        return Draft(
            kind="arrival",
            at=utc_text(self._now()),
            request_id=departure.request_id,
            attempt_id=departure.attempt_id,
            tenant=departure.tenant,
            departure=departure.sequence,
            facts=facts_json(asdict(facts)),
        )

    def _tell_not_sent(self, written: asyncio.Future[Entry]) -> None:
        if not written.cancelled() and written.exception() is None:
            arrival = self._arrival(written.result(), ArrivalFacts(NOT_SENT))
            self._appender.append(arrival, keep=True)

    async def _resume(self) -> None:
        """Append what an earlier stop could not."""
        for file in await THREADS.run(self._leftovers.files):
            try:
                drafts = filter(None, map(_draft, await THREADS.run(lines_of, file)))
                if written := [self._appender.append(draft, keep=True) for draft in drafts]:
                    await asyncio.wait(written)
                file.unlink(missing_ok=True)
            except OSError as error:
                logger.error("kept entries cannot be read: %s", error.strerror)  # noqa: TRY400


def _draft(line: str) -> Draft | None:
    """Read an entry that a stop has kept. Returns None for a broken one."""
    try:
        return Draft(**orjson.loads(line))
    except (orjson.JSONDecodeError, TypeError):
        logger.error("an entry of the egress ledger that was kept cannot be read")  # noqa: TRY400
        return None
