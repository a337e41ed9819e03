"""Tampering with a ledger is found and located."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.egress.ledger.chain import ORIGIN, Entry, entry_hash
from serving.egress.ledger.checkpoints import EVERY_ENTRIES, Checkpoint
from serving.egress.ledger.verification import Fault, Report, verify
from tests.serving.egress.ledgers import AT, OTHER_SIGNER, SIGNER, chain, signed, signed_before

KEYS = SIGNER.public_keys
FIELDS = ("at", "request_id", "attempt_id", "tenant", "facts", "kind", "previous", "hash")
Change = Callable[[list[Entry], int, st.DataObject], list[Entry]]


def rehashed(entries: Sequence[Entry]) -> list[Entry]:
    """Renumber and rehash entries like a knowledgeable attacker."""
    made: list[Entry] = []
    head = ORIGIN
    for entry in entries:
        linked = replace(entry, sequence=head.sequence + 1, previous=head.hash)
        made.append(replace(linked, hash=entry_hash(linked)))
        head = made[-1].head
    return made


def edited(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    name = data.draw(st.sampled_from(FIELDS))
    value = data.draw(st.text(st.characters(codec="utf-8"), max_size=8))
    changed = replace(entries[at], **{name: value})  # type: ignore[arg-type]
    return [*entries[:at], changed, *entries[at + 1 :]]


def edited_with_its_hash(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    changed = edited(entries, at, data)
    one = changed[at]
    changed[at] = replace(one, hash=entry_hash(one))
    return changed


def edited_with_all_hashes(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    name = data.draw(st.sampled_from(("at", "request_id", "tenant", "facts")))
    changed = replace(entries[at], **{name: "other"})  # type: ignore[arg-type]
    return rehashed([*entries[:at], changed, *entries[at + 1 :]])


def deleted(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    end = data.draw(st.integers(at + 1, len(entries)))
    return entries[:at] + entries[end:]


def deleted_and_rehashed(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    return rehashed(deleted(entries, at, data))


def inserted(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    copy = data.draw(st.sampled_from(entries))
    if data.draw(st.booleans()):
        copy = replace(copy, sequence=at + 1)
    return [*entries[:at], copy, *entries[at:]]


def inserted_and_rehashed(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    return rehashed(inserted(entries, at, data))


def moved(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    other = data.draw(st.integers(at, len(entries) - 1))
    changed = [*entries]
    changed[at], changed[other] = changed[other], changed[at]
    return changed


def moved_and_rehashed(entries: list[Entry], at: int, data: st.DataObject) -> list[Entry]:
    return rehashed(moved(entries, at, data))


CHANGES: list[Change] = [
    edited,
    edited_with_its_hash,
    edited_with_all_hashes,
    deleted,
    deleted_and_rehashed,
    inserted,
    inserted_and_rehashed,
    moved,
    moved_and_rehashed,
]


def first_difference(entries: Sequence[Entry], others: Sequence[Entry]) -> int | None:
    """Return the number of the first entry that differs."""
    for number, (one, other) in enumerate(zip(entries, others, strict=False), 1):
        if one != other:
            return number
    shorter, longer = sorted((len(entries), len(others)))
    return None if shorter == longer else shorter + 1


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_every_change_is_found_and_located(change: Change, data: st.DataObject) -> None:
    entries = chain(data.draw(st.integers(1, 14)))
    inner = data.draw(st.sets(st.sampled_from(entries).map(lambda entry: entry.sequence)))
    checkpoints = [signed(entries[number - 1]) for number in sorted(inner | {len(entries)})]
    at = data.draw(st.integers(0, len(entries) - 1))
    changed = change(entries, at, data)
    difference = first_difference(entries, changed)
    report = verify(changed, checkpoints, KEYS)
    if difference is None:
        assert report == Report(len(entries), len(entries), None)
    elif difference > len(entries):
        assert (report.fault is None) == (change is inserted_and_rehashed)  # It is an append.
    else:
        assert report.fault is not None
        truncated = report.fault.what.startswith("missing at the end")
        first = report.signed_to + 1 if truncated else report.fault.first
        assert first <= difference <= report.fault.last


@settings(deadline=None)
@given(st.integers(1, 14), st.data())
def test_truncation_is_found_by_a_checkpoint_that_somebody_holds(
    count: int, data: st.DataObject
) -> None:
    entries = chain(count)
    left = data.draw(st.integers(0, count - 1))
    report = verify(
        entries[:left],
        [signed(entry) for entry in entries[:left]],
        KEYS,
        anchors=[signed(entries[-1])],
    )
    what = f"missing at the end: entry {count} was signed at {AT}"
    assert report == Report(left, left, Fault(left + 1, count, what))


def test_truncation_with_later_checkpoints_is_not_found_without_an_anchor() -> None:
    entries = chain(10)
    assert verify(entries[:5], [signed(entries[4])], KEYS).fault is None


def test_truncation_tells_what_is_not_signed_before_it() -> None:
    entries = chain(10)
    report = verify(entries[:7], [signed(entries[3]), signed(entries[9])], KEYS)
    assert str(report.fault) == (
        f"entries 8 to 10: missing at the end: entry 10 was signed at {AT}; "
        "entries 5 to 7 may have been changed too"
    )


def test_good_ledger_is_whole_and_says_how_far_it_is_signed() -> None:
    entries = chain(10)
    checkpoints = [signed(entries[3]), signed(entries[7])]
    assert verify(entries, checkpoints, KEYS) == Report(10, 8, None)
    assert verify([], [], KEYS) == Report(0, 0, None)


def test_rewritten_ledger_is_located_between_two_checkpoints() -> None:
    entries = chain(10)
    checkpoints = [signed(entries[number - 1]) for number in (3, 6, 10)]
    changed = rehashed([*entries[:4], replace(entries[4], tenant="globex"), *entries[5:]])
    fault = verify(changed, checkpoints, KEYS).fault
    assert fault is not None
    assert (fault.first, fault.last) == (4, 6)
    assert str(fault).startswith("entries 4 to 6: changed")


BAD_CHECKPOINTS: list[tuple[Checkpoint, str]] = [
    (signed(chain(3)[1], OTHER_SIGNER), "entry 2: the checkpoint there is of an unknown key"),
    (
        replace(signed(chain(3)[1]), signature="00"),
        "entry 2: the checkpoint there has a wrong signature",
    ),
    (
        replace(signed(chain(9)[8]), signature="00"),
        "entry 9: the checkpoint there has a wrong signature",
    ),
]


@pytest.mark.parametrize(("checkpoint", "told"), BAD_CHECKPOINTS)
@pytest.mark.parametrize("kept", ["checkpoints", "anchors"])
def test_checkpoint_that_is_not_genuine_is_a_fault(
    checkpoint: Checkpoint, told: str, kept: str
) -> None:
    given: dict[str, Any] = {"checkpoints": [], "anchors": []} | {kept: [checkpoint]}
    report = verify(chain(3), given["checkpoints"], KEYS, anchors=given["anchors"])
    assert str(report.fault) == told


def test_missing_checkpoints_are_noticed_once_there_must_be_one() -> None:
    most = EVERY_ENTRIES - 1
    assert verify(chain(most), [], KEYS).fault is None
    told = verify(chain(most + 1), [], KEYS).fault
    assert told == Fault(1, most + 1, "not signed: their checkpoints are missing")


def test_ledger_of_another_chain_is_found_by_an_anchor() -> None:
    entries = chain(5)
    others = rehashed([replace(entry, tenant="globex") for entry in entries])
    checkpoints = [signed(entry, before=others[:at]) for at, entry in enumerate(others)]
    assert verify(others, checkpoints, KEYS).fault is None
    report = verify(others, checkpoints, KEYS, anchors=[signed(entries[4])])
    assert report.fault is not None
    assert report.fault.last == 5


@pytest.mark.parametrize("at", range(1, 5))
def test_change_below_a_checkpoint_of_either_version_is_found(at: int) -> None:
    entries = chain(4)
    changed = replace(entries[at - 1], tenant="other")
    other = rehashed([*entries[: at - 1], changed, *entries[at:]])
    for checkpoint in (signed(entries[-1]), signed_before(entries[-1])):
        assert verify(entries, [checkpoint], KEYS) == Report(4, 4, None)
        told = verify(other, [checkpoint], KEYS).fault
        assert (told and (told.first, told.last)) == (1, 4)
