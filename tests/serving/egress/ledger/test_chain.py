"""The hashed form of entries. A change of it would break every existing ledger."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import fields, replace
from typing import Any

import orjson
import pytest

from serving.egress.ledger.chain import ORIGIN, Entry, facts_json
from serving.egress.ledger.errors import LedgerFileInvalid
from tests.serving.egress.ledgers import AT, chain, draft


def test_hash_is_that_of_the_canonical_form() -> None:
    entry = draft(tenant="ümläut", departure=7).following(ORIGIN)
    texts = ["1", "0" * 64, "departure", AT, "req_1", "a1", "ümläut", "7", '{"body_bytes":3}']
    encoded = b"\x01"
    for text in texts:
        encoded += struct.pack(">I", len(text.encode())) + text.encode()
    assert entry.hash == hashlib.sha256(encoded).hexdigest()


def test_hash_of_version_one_never_changes() -> None:
    entry = draft().following(ORIGIN)
    assert entry.hash == "1e1cff6e0222aa2589d3a2c0061dfffcacda25c9ade0a50285036c360039d8cc"


def test_entry_follows_the_one_before_it() -> None:
    first, second = chain(2)
    assert (first.sequence, first.previous) == (1, ORIGIN.hash)
    assert (second.sequence, second.previous) == (2, first.hash)


@pytest.mark.parametrize("name", [field.name for field in fields(Entry)])
@pytest.mark.parametrize("value", ["x", 5, None, b"x", 1.5, "\ud800"], ids=repr)
def test_entry_with_any_other_value_is_not_intact(name: str, value: Any) -> None:
    entry = draft().following(ORIGIN)
    changed = replace(entry, **{name: value})
    assert entry.is_intact()
    assert changed == entry or not changed.is_intact()


def test_text_moved_from_one_field_to_the_next_changes_the_hash() -> None:
    one = draft(request_id="ab", attempt_id="c").following(ORIGIN)
    other = draft(request_id="a", attempt_id="bc").following(ORIGIN)
    assert one.hash != other.hash


def test_facts_are_sorted_and_without_white_space() -> None:
    assert facts_json({"b": {"z": 1, "a": "ü"}, "a": None}) == '{"a":null,"b":{"a":"ü","z":1}}'


def test_entry_comes_back_from_json_as_it_was() -> None:
    (entry,) = chain(1)
    assert Entry.from_json(orjson.loads(orjson.dumps(entry.as_json()))) == entry


def test_json_with_other_fields_is_no_entry() -> None:
    (entry,) = chain(1)
    told = entry.as_json()
    del told["facts"]
    with pytest.raises(LedgerFileInvalid):
        Entry.from_json(told)
    with pytest.raises(LedgerFileInvalid):
        Entry.from_json(entry.as_json() | {"more": 1})
