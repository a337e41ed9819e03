"""A recorded run in Valkey: its scripts, its lease, and the encryption of its pieces.

A record is a hash (fingerprint, its current run, state). A run has a list of sealed pieces, of
which an empty one is the end, and a lease, whose expiry says that whoever ran it is gone. Time is
Valkey's own: nothing here depends on the clock of a gateway.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey

T = TypeVar("T")

Ending = Literal["", "keep", "forget"]
"""What becomes of the record after an append: nothing yet, it is kept whole, or it is forgotten."""

PIECE_BYTES = 16 * 1024
PAGE = 64
"""Pieces in a call: 1 MiB, which Valkey's deadline allows on any network."""

_GRACE_MS = 10_000  # For those who were reading an answer that is not kept.
_RETRY_S = 0.1

_NAMES = """
local record = ARGV[1]
local function names(run)
  return record .. ':' .. run .. ':lease', record .. ':' .. run .. ':pieces'
end
"""

BEGIN = (
    _NAMES
    + """
local fingerprint, run, lease_ms, ttl_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local known = redis.call('HMGET', record, 'fingerprint', 'run', 'state')
if known[1] and known[1] ~= fingerprint then return {'conflict', ''} end
if known[3] == 'too large' then return {'too large', ''} end
if known[2] then
  local lease, pieces = names(known[2])
  if redis.call('EXISTS', lease) == 1 then return {'replay', known[2]} end
  if known[3] == 'whole' and redis.call('EXISTS', pieces) == 1 then return {'replay', known[2]} end
  redis.call('DEL', pieces)
end
redis.call('HSET', record, 'fingerprint', fingerprint, 'run', run, 'state', 'running')
redis.call('PEXPIRE', record, ttl_ms)
redis.call('SET', (names(run)), '', 'PX', lease_ms)
return {'run', run}
"""
)
"""Takes record, fingerprint, a new run's id, lease and expiry; tells what to do, and which run."""

_APPEND = (
    _NAMES
    + """
local run, first, ending, lease_ms, ttl_ms = ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local lease, pieces = names(run)
local have = redis.call('LLEN', pieces)
if redis.call('HGET', record, 'run') ~= run or have < first then return 0 end
for at = 7 + have - first, #ARGV do redis.call('RPUSH', pieces, ARGV[at]) end
redis.call('PEXPIRE', pieces, ttl_ms)
if ending == 'forget' then
  redis.call('DEL', lease, record)
  return 1
end
redis.call('PEXPIRE', record, ttl_ms)
if ending == 'keep' then
  redis.call('HSET', record, 'state', 'whole')
  redis.call('DEL', lease)
else
  redis.call('SET', lease, '', 'PX', lease_ms)
end
return 1
"""
)
"""May be repeated with the same pieces: those that are there already are not added again."""

_TOO_LARGE = (
    _NAMES
    + """
local run, ttl_ms = ARGV[2], ARGV[3]
if redis.call('HGET', record, 'run') ~= run then return 0 end
redis.call('HSET', record, 'state', 'too large')
redis.call('PEXPIRE', record, ttl_ms)
redis.call('DEL', names(run))
return 1
"""
)

_READ = (
    _NAMES
    + """
local run, first, count = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local lease, pieces = names(run)
return {redis.call('EXISTS', lease), redis.call('LRANGE', pieces, first, first + count - 1)}
"""
)


class RunLost(Exception):
    """The process that ran the request is gone, or no longer records. Begin again."""


@dataclass(frozen=True, slots=True)
class RecordBounds:
    """Bounds of a record: its life after its end, its lease, and its size."""

    ttl_ms: int
    lease_ms: int
    max_bytes: int

    @property
    def running_ms(self) -> int:
        """How long an unfinished record lasts."""
        return self.ttl_ms + self.lease_ms

    @property
    def renew_s(self) -> float:
        """Interval of the lease's renewal: two failures in a row do not end it."""
        return self.lease_ms * 0.3 / 1000


class RecordedRun:
    """A run, and the key that its pieces are sealed with.

    The key is the run's own, so a piece's place in the list is a nonce that never occurs twice.

    Args:
        valkey: where it is.
        record: the name of the record in Valkey.
        run: the run's id.
        root: the key of the record, of which the run's own is derived.
        bounds: as configured.
    """

    def __init__(
        self, valkey: Valkey, *, record: str, run: str, root: bytes, bounds: RecordBounds
    ) -> None:
        self.bounds = bounds
        self._valkey = valkey
        self._record = record
        self._run = run
        self._cipher = AESGCM(derived(root, f"pieces:{run}"))
        self._count = 0

    def seal(self, data: bytes, *, end: bool) -> list[bytes]:
        """The next pieces, encrypted (AES-256-GCM); the last of all is an empty one."""
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        if end:
            pieces.append(b"")
        return [
            self._cipher.encrypt(_nonce(place), piece, None)
            for place, piece in enumerate(pieces, self._count)
        ]

    def unseal(self, piece: bytes, *, place: int) -> bytes:
        """Return the bytes of a piece. Raises `InvalidTag` if it is not of this run and place."""
        return self._cipher.decrypt(_nonce(place), piece, None)

    async def append(self, sealed: list[bytes], ending: Ending) -> bool:
        """Add pieces and renew the lease; False when the record has another run by now."""
        lasts = {"": self.bounds.running_ms, "keep": self.bounds.ttl_ms, "forget": _GRACE_MS}
        args = (self._count, ending, self.bounds.lease_ms, lasts[ending], *sealed)
        kept = await self._call(_APPEND, *args)
        self._count += len(sealed)
        return bool(kept)

    async def mark_too_large(self) -> None:
        """Drop the pieces, and remember that there was an answer."""
        await self._call(_TOO_LARGE, self.bounds.ttl_ms)

    async def release(self) -> None:
        """Give the lease up, so that the next repeat need not wait for its end."""
        await self._valkey.command("DEL", f"{self._record}:{self._run}:lease")

    async def page(self, first: int) -> list[bytes]:
        """Sealed pieces from place `first` on; empty while there is none yet. Raises `RunLost`."""
        alive, pieces = await self._call(_READ, first, PAGE)
        if not alive and not pieces:
            raise RunLost
        return list(pieces)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, made again while Valkey is away, for as long as a lease lasts.

        Raises:
            ValkeyUnavailable: it was away for longer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.bounds.lease_ms / 1000
        while True:
            try:
                return await call()
            except ValkeyUnavailable:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _call(self, script: str, *args: bytes | str | int) -> Any:
        return await self._valkey.run(script, self._record, self._run, *args)


def derived(root: bytes, label: str) -> bytes:
    """Derive 32 bytes for one purpose, which reveal neither `root` nor those of another purpose."""
    return hmac.digest(root, label.encode(), "sha256")


def _nonce(place: int) -> bytes:
    return place.to_bytes(12)
