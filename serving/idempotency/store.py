"""Answers under idempotency keys: one run records, everybody else reads along, on any gateway.

Knows bytes, not HTTP. Nothing in Valkey tells tenant, key, request or answer: names and
fingerprints are HMACs, answers are encrypted, and what they are encrypted with is not there.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Self

from cryptography.exceptions import InvalidTag
from pydantic import SecretStr

from serving.domain.errors import IdempotencyConflict, IdempotencyTooLarge, IdempotencyUnavailable
from serving.idempotency.recorded_run import (
    BEGIN,
    PAGE,
    PIECE_BYTES,
    Ending,
    RecordBounds,
    RecordedRun,
    RunLost,
    derived,
)
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey

__all__ = ["IdempotencyStore", "Recorder", "Replay", "RunLost"]

logger = logging.getLogger("ringfence.idempotency")

TTL_S = 24 * 3600.0
MAX_BYTES = 8 * 1024 * 1024
LEASE_S = 10.0

POLL_S = 0.05
_GATHER_S = 0.02  # An append costs the gateway more than a token does, and nobody reads sooner.


class IdempotencyStore:
    """Records of answers, by tenant and idempotency key.

    Args:
        valkey: where they are kept.
        secret: the server secret; every name and key is derived from it.
        ttl_s: how long an answer is kept after its end.
        max_bytes: of one answer. A larger one is not kept, but that it was given is.
        prefix: of every name in Valkey. The braces keep all of it on one node of a cluster.
        lease_s: how long after its last sign of life a run counts as gone.
    """

    def __init__(
        self,
        valkey: Valkey,
        secret: SecretStr,
        *,
        ttl_s: float = TTL_S,
        max_bytes: int = MAX_BYTES,
        prefix: str = "{ringfence}:idempotency",
        lease_s: float = LEASE_S,
    ) -> None:
        self._valkey = valkey
        self._secret = secret.get_secret_value().encode()
        self._bounds = RecordBounds(int(ttl_s * 1000), int(lease_s * 1000), max_bytes)
        self._prefix = prefix

    async def begin(self, tenant: str, key: str, fingerprint: bytes) -> Recorder | Replay:
        """Become the one who runs this request and records its answer, or one who reads along.

        Args:
            tenant: whose key it is; the keys of tenants are apart.
            key: the idempotency key.
            fingerprint: a digest of all that makes requests different.

        Raises:
            IdempotencyConflict: the key was used with another fingerprint.
            IdempotencyTooLarge: the answer was given and could not be kept.
            IdempotencyUnavailable: Valkey does not answer.
        """
        scope = f"idempotency:{len(tenant)}:{tenant}:{key}"
        root = hmac.digest(self._secret, scope.encode(), "sha256")
        record = f"{self._prefix}:{derived(root, 'record').hex()}"
        told, run_id = await self._told(record, derived(root, f"request:{fingerprint.hex()}"))
        run = RecordedRun(self._valkey, record=record, run=run_id, root=root, bounds=self._bounds)
        return Recorder(run) if told == b"run" else Replay(run)

    async def _told(self, record: str, fingerprint: bytes) -> tuple[bytes, str]:
        bounds, new_id = self._bounds, secrets.token_hex(16)
        args = (record, fingerprint, new_id, bounds.lease_ms, bounds.running_ms)
        try:
            told, run_id = await self._valkey.run(BEGIN, *args)
        except ValkeyUnavailable as error:
            raise IdempotencyUnavailable(
                "Answers cannot be recorded now, so a repeat might run twice. Try again soon, or "
                "send the request without an idempotency key."
            ) from error
        if told == b"conflict":
            raise IdempotencyConflict("This idempotency key was used for another request.")
        if told == b"too large":
            raise IdempotencyTooLarge(
                "This request was answered, but its answer was too large to be kept for a repeat. "
                "Use a new idempotency key to run it again."
            )
        return told, run_id.decode()


class Recorder:
    """Records the answer of the one run there is. A scope: left without `finish`, the run is lost.

    Writing never waits: what has piled up goes to Valkey together.
    """

    def __init__(self, run: RecordedRun) -> None:
        self._run = run
        self._pending = bytearray()
        self._written = 0
        self._news = asyncio.Event()
        self._ending: Ending = ""
        self._closed = False

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._record())
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._writer.done():
            self._writer.cancel()
            await asyncio.wait([self._writer])
            with suppress(ValkeyUnavailable):
                await self._run.release()

    def write(self, data: bytes) -> None:
        """Add to the answer; no more is taken once it cannot be kept."""
        if self._closed:
            return
        self._written += len(data)
        self._pending += data
        if self._too_large:
            self._close()
        self._news.set()

    async def finish(self, *, keep: bool) -> None:
        """End the answer. If it is not kept, only its current readers get it.

        Waits until Valkey has all of it, or has been away for as long as a lease lasts.
        """
        self._ending = "keep" if keep else "forget"
        self._news.set()
        await self._writer

    @property
    def _too_large(self) -> bool:
        return self._written > self._run.bounds.max_bytes

    def _close(self) -> None:
        self._closed = True
        self._pending.clear()

    async def _record(self) -> None:
        """Write the pieces to Valkey and renew the lease, until either ends."""
        more = True
        try:
            while more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._run.bounds.renew_s):
                        await self._news.wait()
                if not self._ending:
                    await asyncio.sleep(_GATHER_S)
                more = await self._bring()
        except ValkeyUnavailable as error:
            logger.warning("the answer of an idempotency key could not be recorded: %s", error)
        finally:
            self._close()

    async def _bring(self) -> bool:
        """Append once. Returns whether more pieces are to come."""
        self._news.clear()
        if self._too_large:
            await self._run.patiently(self._run.mark_too_large)
            return False
        batch = bytes(self._pending[: PAGE * PIECE_BYTES])
        del self._pending[: len(batch)]
        if self._pending:
            self._news.set()
        ending: Ending = "" if self._pending else self._ending
        sealed = self._run.seal(batch, end=bool(ending))
        kept = await self._run.patiently(lambda: self._run.append(sealed, ending))
        return kept and not ending


class Replay:
    """Reads the answer of a run, which may be at its end or still going on."""

    def __init__(self, run: RecordedRun) -> None:
        self._run = run

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Every byte of the answer in order, as it comes.

        Raises:
            RunLost: the answer will not be completed.
            IdempotencyUnavailable: Valkey was away for too long, or holds what we did not write.
        """
        place = 0
        try:
            while True:
                sealed = await self._next(place)
                pieces = [
                    self._run.unseal(piece, place=at) for at, piece in enumerate(sealed, place)
                ]
                if data := b"".join(pieces):
                    yield data
                if not pieces[-1]:
                    return
                place += len(pieces)
        except (ValkeyUnavailable, InvalidTag) as error:
            raise IdempotencyUnavailable(
                "The recorded answer cannot be read now. Try again soon."
            ) from error

    async def _next(self, place: int) -> list[bytes]:
        """Wait for at least one piece, at the longest until the run's lease ends."""
        while True:
            if sealed := await self._run.patiently(lambda: self._run.page(place)):
                return sealed
            await asyncio.sleep(POLL_S)
