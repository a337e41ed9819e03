"""The chain of a database, extended and signed in transactions by any number of gateways.

They take turns: on SQLite's write lock, on an advisory lock of PostgreSQL. Knows nothing of what
the entries say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from serving.egress.ledger.chain import ORIGIN, Draft, Entry, Head
from serving.egress.ledger.checkpoints import EVERY_ENTRIES, Checkpoint
from serving.egress.ledger.errors import LedgerFileInvalid, LedgerTruncated
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.notes import ORIGIN_NAME, TreeHead
from serving.egress.ledger.reading import entry_of
from serving.egress.ledger.signing import Signer
from serving.storage.database import Database
from serving.storage.schema import EgressCheckpoint, EgressEntry

LOCK = text("SELECT pg_advisory_xact_lock(1380533092)")
"""Advisory lock of the chain; any number that no other user of the database takes."""

_HEAD = select(EgressEntry.sequence, EgressEntry.hash).order_by(EgressEntry.sequence.desc())
_SIGNED = select(EgressCheckpoint).order_by(EgressCheckpoint.sequence.desc())
_PAGE = 10_000


def utc_text(moment: datetime) -> str:
    """A time as the ledger has it: ISO 8601 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


@dataclass(frozen=True, slots=True)
class CheckpointRules:
    """When an appender also signs a checkpoint, in the same transaction.

    Attributes:
        signer: signs it.
        origin: the name of this ledger in the notes.
        every_entries: so many entries after the last one.
        every_s: so long after the last one.
        file: gets each one that is made here as a line of JSON; best on another machine.
    """

    signer: Signer
    origin: str = ORIGIN_NAME
    every_entries: int = EVERY_ENTRIES
    every_s: float = 10.0
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class _End:
    """Where the chain ends, where and when it was signed last, and the tree of what was signed."""

    head: Head
    signed: int
    signed_at: datetime | None
    tree: Frontier

    @property
    def is_signed(self) -> bool:
        return self.signed == self.head.sequence


class ChainStore:
    """The chain as one gateway knows it: what it has seen committed can never be gone.

    Args:
        database: holds the chain.
        rules: of checkpoints.
        now: the wall clock.
    """

    def __init__(
        self, database: Database, rules: CheckpointRules, *, now: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._rules = rules
        self._now = now
        self._seen = ORIGIN

    async def extend(self, drafts: Sequence[Draft]) -> tuple[list[Entry], Checkpoint | None]:
        """Append; the entries in the order of their drafts, and a checkpoint if one was due.

        An arrival that is there already is not written again: the answer of its commit was lost,
        or it was told twice.

        Raises:
            DatabaseUnavailable: unreachable, locked or too slow.
            LedgerTruncated: entries that this gateway wrote, or that were signed, are gone.
        """
        async with self._database.transaction() as session:
            end = await self._locked(session)
            head = end.head
            there = await _arrivals_of(session, [one.departure for one in drafts if one.departure])
            entries, new = [], []
            for draft in drafts:
                entry = there.get(draft.departure or 0)
                if entry is None:
                    entry = draft.following(head)
                    head = entry.head
                    new.append(asdict(entry))
                    there |= {draft.departure: entry} if draft.departure else {}
                entries.append(entry)
            if new:
                await session.execute(insert(EgressEntry), new)
            made = await self._sign_when_due(session, replace(end, head=head))
        self._seen = max(self._seen, head)
        return entries, made

    async def sign(self) -> Checkpoint | None:
        """Sign the chain's head, unless that is signed. Raises as above."""
        async with self._database.session() as session:
            if (await _end(session)).is_signed:
                return None
        async with self._database.transaction() as session:
            return await self._sign_when_due(session, await self._locked(session), force=True)

    async def _locked(self, session: AsyncSession) -> _End:
        """Return the end of the chain, locked until this transaction ends."""
        if self._database.dialect == "postgresql":
            await session.execute(LOCK)
        end = await _end(session)
        if end.signed > end.head.sequence:
            raise LedgerTruncated(
                f"the egress ledger ends at entry {end.head.sequence}, but entry {end.signed} was "
                "signed; run `ringfence ledger verify`"
            )
        if self._seen not in (ORIGIN, end.head) and not await _has(session, self._seen):
            raise LedgerTruncated(
                f"entry {self._seen.sequence} of the egress ledger is not as it was written; run "
                "`ringfence ledger verify`"
            )
        return end

    async def _sign_when_due(
        self, session: AsyncSession, end: _End, *, force: bool = False
    ) -> Checkpoint | None:
        now = self._now()
        late = end.signed_at is None or (now - end.signed_at).total_seconds() >= self._rules.every_s
        many = end.head.sequence - end.signed >= self._rules.every_entries
        if end.is_signed or not (force or late or many):
            return None
        made = Checkpoint.sign(
            end.head,
            await _tree_to(session, end),
            utc_text(now),
            signer=self._rules.signer,
            origin=self._rules.origin,
        )
        await session.execute(insert(EgressCheckpoint).values(**asdict(made)))
        return made


async def _end(session: AsyncSession) -> _End:
    last = (await session.execute(_HEAD.limit(1))).first()
    signed = await session.scalar(_SIGNED.limit(1))
    head = ORIGIN if last is None else Head(*last)
    if signed is None:
        return _End(head, 0, None, Frontier())
    return _End(head, signed.sequence, datetime.fromisoformat(signed.at), _tree_of(signed))


def _tree_of(signed: EgressCheckpoint) -> Frontier:
    """The tree of a checkpoint; one of an earlier version has none, and all entries are read."""
    if signed.note_text is None or signed.frontier is None:
        return Frontier()
    try:
        tree = Frontier.from_text(signed.sequence, signed.frontier)
        if TreeHead.of(signed.note_text).root == tree.root:
            return tree
    except (ValueError, LedgerFileInvalid):
        pass
    raise LedgerTruncated(
        f"the checkpoint of entry {signed.sequence} is not as it was signed; run "
        "`ringfence ledger verify`"
    )


async def _tree_to(session: AsyncSession, end: _End) -> Frontier:
    """The tree over all entries: that of the last checkpoint, and the entries since."""
    tree = end.tree
    while tree.size < end.head.sequence:
        query = select(EgressEntry.sequence, EgressEntry.hash).order_by(EgressEntry.sequence)
        rows = await session.execute(query.where(EgressEntry.sequence > tree.size).limit(_PAGE))
        found = rows.all()
        if [row.sequence for row in found] != [tree.size + i for i in range(1, len(found) + 1)]:
            raise LedgerTruncated(
                f"an entry after entry {tree.size} is gone; run `ringfence ledger verify`"
            )
        tree = tree.with_leaves(bytes.fromhex(row.hash) for row in found)
    return tree


async def _has(session: AsyncSession, seen: Head) -> bool:
    query = select(EgressEntry.hash).where(EgressEntry.sequence == seen.sequence)
    return bool(await session.scalar(query) == seen.hash)


async def _arrivals_of(session: AsyncSession, departures: Sequence[int]) -> dict[int, Entry]:
    """Arrivals that are there already, by their departures."""
    if not departures:
        return {}
    query = select(EgressEntry).where(EgressEntry.departure.in_(departures))
    found = [entry_of(row) for row in await session.scalars(query)]
    return {entry.departure or 0: entry for entry in found}
