"""Verification of a ledger: is it whole, in order, and as it was signed?

Found, and located:

- an edit: the entry's hash is not that of its fields; when its hash was made anew too, the next
  entry does not continue it, and when all later ones were made anew, the next checkpoint does not
  fit;
- an entry put in, taken out or moved: numbers and hashes do not follow each other;
- a truncation: a checkpoint signs an entry that is not there. Whoever truncates the database can
  take its later checkpoints too; then an anchor, a checkpoint that somebody else holds, finds it;
- checkpoints taken away: more entries follow the last one than ever may.

Not found, by anybody:

- a truncation after the last checkpoint that is held outside of the database, if its later
  checkpoints are gone too. Entries written since are as good as the next anchor.
- a change, after the last anchor, by somebody who has the signing key, or who makes the chain anew
  without its checkpoints while no gateway runs: the next one signs what it finds.
- bytes that left past the ledger: it tells what it was told.

Entries after the last checkpoint are chained, not signed: whoever can write to the database can
make them anew. A gateway that runs signs them within seconds; a report says where that stood.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from serving.egress.ledger.chain import ORIGIN, Entry
from serving.egress.ledger.checkpoints import EVERY_ENTRIES, Checkpoint
from serving.egress.ledger.merkle import Frontier
from serving.egress.ledger.signing import PublicKeys


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong. It lies at an entry from `first` to `last`."""

    first: int
    last: int
    what: str

    def __str__(self) -> str:
        return f"{_span(self.first, self.last)}: {self.what}"


def _span(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"


def _signed(checkpoint: Checkpoint) -> str:
    return f"signed at {checkpoint.at}" if checkpoint.at else "signed"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification.

    Attributes:
        entries: that were looked at; up to the fault if there is one.
        signed_to: the last entry that a good checkpoint signs, with all before it; 0: none.
        fault: None: nothing is wrong.
    """

    entries: int
    signed_to: int
    fault: Fault | None


class Verification:
    """Takes entries one by one, so that a ledger of any size can be verified.

    Args:
        keys: whose checkpoints count. One of any other key is a fault.
        checkpoints: of the ledger itself.
        anchors: that somebody else has held.
        unsigned_at_most: so many entries may follow the last checkpoint.
    """

    def __init__(
        self,
        keys: PublicKeys,
        checkpoints: Iterable[Checkpoint],
        anchors: Iterable[Checkpoint] = (),
        *,
        unsigned_at_most: int = EVERY_ENTRIES - 1,
    ) -> None:
        self._keys = keys
        self._unsigned_at_most = unsigned_at_most
        self._checkpoints: defaultdict[int, list[Checkpoint]] = defaultdict(list)
        for checkpoint in (*checkpoints, *anchors):
            self._checkpoints[checkpoint.sequence].append(checkpoint)
        self._head = ORIGIN
        self._tree = Frontier()
        self._signed_to = 0
        self._fault: Fault | None = None

    def take(self, entry: Entry) -> bool:
        """Look at the next entry; whether all is well so far. After a fault no more is needed."""
        if self._fault is None:
            self._fault = self._fault_of(entry)
        if self._fault is None:
            self._head = entry.head
        return self._fault is None

    def report(self) -> Report:
        """Return the result, after the last entry."""
        fault = self._fault or self._truncation() or self._unsigned()
        return Report(self._head.sequence, self._signed_to, fault)

    def _fault_of(self, entry: Entry) -> Fault | None:
        expected = self._head.sequence + 1
        if entry.sequence != expected:
            beyond = isinstance(entry.sequence, int) and entry.sequence > expected
            last = entry.sequence - 1 if beyond else expected
            return Fault(expected, last, f"missing; {entry.sequence!r} stands there")
        if not entry.is_intact():
            return Fault(expected, expected, "changed: its hash is not that of its fields")
        if entry.previous != self._head.hash:
            return Fault(
                max(1, expected - 1), expected, "changed: the second does not continue the first"
            )
        self._tree = self._tree.with_leaves([bytes.fromhex(entry.hash)])
        return self._disagreement(entry)

    def _disagreement(self, entry: Entry) -> Fault | None:
        """A checkpoint at this entry that does not fit."""
        for checkpoint in self._checkpoints.pop(entry.sequence, ()):
            if not checkpoint.is_genuine(self._keys):
                return self._not_genuine(checkpoint)
            if not checkpoint.fits(entry, self._tree):
                return Fault(
                    self._signed_to + 1,
                    entry.sequence,
                    f"changed: they are not those that were {_signed(checkpoint)}",
                )
            self._signed_to = entry.sequence
        return None

    def _truncation(self) -> Fault | None:
        """Find a checkpoint that signs missing entries."""
        for sequence in sorted(self._checkpoints):
            for checkpoint in self._checkpoints[sequence]:
                if not checkpoint.is_genuine(self._keys):
                    return self._not_genuine(checkpoint)
        if not self._checkpoints:
            return None
        end = max(self._checkpoints)
        last = self._head.sequence
        what = f"missing at the end: entry {end} was {_signed(self._checkpoints[end][0])}"
        if last > self._signed_to:
            what += f"; {_span(self._signed_to + 1, last)} may have been changed too"
        return Fault(last + 1, end, what)

    def _unsigned(self) -> Fault | None:
        """More entries after the last checkpoint than there can be."""
        end = self._head.sequence
        if end - self._signed_to <= self._unsigned_at_most:
            return None
        return Fault(self._signed_to + 1, end, "not signed: their checkpoints are missing")

    def _not_genuine(self, checkpoint: Checkpoint) -> Fault:
        known = checkpoint.key_id in self._keys
        what = "has a wrong signature" if known else "is of an unknown key"
        return Fault(checkpoint.sequence, checkpoint.sequence, f"the checkpoint there {what}")


def verify(
    entries: Iterable[Entry],
    checkpoints: Iterable[Checkpoint],
    keys: PublicKeys,
    *,
    anchors: Iterable[Checkpoint] = (),
) -> Report:
    """Verify a whole ledger, its entries in the order in which they are kept."""
    verification = Verification(keys, checkpoints, anchors)
    for entry in entries:
        if not verification.take(entry):
            break
    return verification.report()
