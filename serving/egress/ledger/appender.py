"""The appender: writes entries to the chain in the order in which they arrive.

Drafts that come while a transaction runs share the next one, so a gateway has one transaction open
whatever its load.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from models.threads import Threads
from serving.egress.ledger.chain import Draft, Entry
from serving.egress.ledger.chain_store import ChainStore, CheckpointRules
from serving.egress.ledger.checkpoints import Checkpoint, append_to_file
from serving.egress.ledger.errors import LedgerTruncated, LedgerUnavailable

__all__ = ["Appender", "CheckpointRules"]

logger = logging.getLogger("ringfence.egress")

_THREADS = Threads("checkpoint-file", 1)

FILE_TIMEOUT_S = 0.5
"""The time that the checkpoint file, perhaps on another machine, may take. Entries wait for it."""

RETRY_S = 0.5
"""Pause before entries are written again after the database was away."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    draft: Draft
    written: asyncio.Future[Entry]
    keep: bool


class Appender:
    """Appends for one gateway.

    Args:
        store: the chain.
        rules: tell where every checkpoint that is made here goes too.
    """

    def __init__(self, store: ChainStore, rules: CheckpointRules) -> None:
        self._store = store
        self._file = rules.file
        self._queue: list[_Pending] = []
        self._sent: list[_Pending] = []
        self._writing: asyncio.Task[None] | None = None
        self._failing = False

    def append(self, draft: Draft, *, keep: bool = False) -> asyncio.Future[Entry]:
        """Hand an entry in; it is in the chain when the future has it.

        The future raises LedgerUnavailable when it is not written; with `keep` it is tried for ever
        instead.
        """
        pending = _Pending(draft, asyncio.get_running_loop().create_future(), keep)
        self._queue.append(pending)
        self._wake()
        return pending.written

    def withdraw(self, written: asyncio.Future[Entry]) -> None:
        """Take an entry back if its transaction has not begun; its future is cancelled then."""
        for pending in self._queue:
            if pending.written is written:
                self._queue.remove(pending)
                written.cancel()
                return

    async def checkpoint(self) -> None:
        """Sign the chain's head, unless that is signed.

        Raises:
            DatabaseUnavailable, LedgerTruncated: as the store does.
        """
        await self._hand_out(await self._store.sign())

    async def close(self, *, timeout_s: float) -> tuple[list[Draft], bool]:
        """Write the remaining entries and sign the head, as far as the time allows.

        A write that still runs then is cancelled and may succeed after all: see `ended`.

        Returns:
            What had to be written and may not be, and whether the head is signed.
        """
        with suppress(Exception):  # Whatever it is, what is left has to be kept.
            async with asyncio.timeout(timeout_s):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                await self.checkpoint()
                return [], True
        left = [one.draft for one in (*self._sent, *self._queue) if one.keep]
        if self._writing is not None:
            self._writing.cancel()
        return left, False

    async def ended(self) -> None:
        """Wait for a write that `close` cancelled. SQLite lets it wait for a lock, for 30 s."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _wake(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        """Write one transaction after the other, until nothing is left."""
        while self._queue:
            batch, self._queue = self._queue, []
            self._sent = batch
            try:
                entries, made = await self._store.extend([pending.draft for pending in batch])
            except Exception as error:  # noqa: BLE001  What must be written waits, whatever it was.
                self._sent = []
                await self._put_back(batch, error)
                continue
            self._failing, self._sent = False, []
            for pending, entry in zip(batch, entries, strict=True):
                if not pending.written.done():
                    pending.written.set_result(entry)
            await self._hand_out(made)

    async def _put_back(self, batch: Sequence[_Pending], error: Exception) -> None:
        """Fail what may fail; what must be written waits."""
        if not self._failing:
            logger.error("the egress ledger cannot be written now: %s", type(error).__name__)
        self._failing = True
        unavailable = LedgerUnavailable("the record of what leaves cannot be written now")
        for pending in batch:
            if not pending.keep and not pending.written.done():
                pending.written.set_exception(
                    error if isinstance(error, LedgerTruncated) else unavailable
                )
        self._queue[:0] = [pending for pending in batch if pending.keep]
        if self._queue:
            await asyncio.sleep(RETRY_S)

    async def _hand_out(self, made: Checkpoint | None) -> None:
        """Put a checkpoint, now that it is committed, where the database's owner cannot take it."""
        if made is None or self._file is None:
            return
        try:
            async with asyncio.timeout(FILE_TIMEOUT_S):
                await _THREADS.run(append_to_file, self._file, made)
        except OSError as error:  # TimeoutError is one.
            reason = error.strerror or type(error).__name__
            logger.error("no checkpoint can be written to its file: %s", reason)  # noqa: TRY400
