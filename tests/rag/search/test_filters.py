"""Filters on attributes: the same meaning in Python and in both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from rag.errors import Refused
from rag.schema import File, StoreFile, VectorStore
from rag.search.filters import Comparison, Compound, Filter, clause, matches, parse
from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.schema import TenantRow

KEYS = ["a", 'q"uote', "d.ot", "$[0]"]
VALUES = st.one_of(
    st.sampled_from(["", "a", "b", "B", "é", "1", "true", "\U0001f600", "\uffff"]),
    st.sampled_from([0.0, 1.0, -1.0, 1.5, 2.0**60]),
    st.booleans(),
)
ORDERED = VALUES.filter(lambda value: not isinstance(value, bool))
ATTRIBUTES = st.dictionaries(st.sampled_from(KEYS), st.one_of(VALUES, st.integers(-2, 2)))
COMPARISONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Comparison, st.sampled_from(KEYS), st.sampled_from(["eq", "ne"]), st.tuples(VALUES)),
    st.builds(
        Comparison,
        st.sampled_from(KEYS),
        st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.tuples(ORDERED),
    ),
    st.builds(
        Comparison,
        st.sampled_from(KEYS),
        st.sampled_from(["in", "nin"]),
        st.lists(VALUES, max_size=3).map(tuple),
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        Compound, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3).map(tuple)
    ),
    max_leaves=5,
)
SAMPLES: list[dict[str, Any]] = [
    {},
    *({key: value} for key in KEYS[:2] for value in ("a", "b", "é", "1", "true", 1, 1.5, True)),
    *({"a": value, "d.ot": other} for value in ("B", 2**60, False) for other in (0, "\uffff")),
    {"$[0]": "\U0001f600", 'q"uote': "", "a": -1},
]


async def fill(database: Database) -> None:
    async with database.transaction() as session:
        session.add(TenantRow(name="acme", created_at=utc_now(), weight=1.0))
        await session.flush()
        session.add(
            VectorStore(
                id="vs_1", tenant="acme", name="s", details={}, created_at=1, last_active_at=1
            )
        )
        files = [
            {
                "id": f"file-{at}", "tenant": "acme", "filename": "f", "purpose": "user_data",
                "media_type": "text/plain", "bytes": 1, "sha256": "0", "privacy": "open",
                "created_at": 1,
            }
            for at in range(len(SAMPLES))
        ]  # fmt: skip
        await session.execute(insert(File), files)
        await session.flush()
        rows = [
            {
                "id": at + 1, "store_id": "vs_1", "file_id": f"file-{at}", "created_at": 1,
                "status": "completed", "attributes": attributes, "strategy": "auto",
                "chunk_tokens": 800, "overlap_tokens": 400, "usage_bytes": 1, "tries": 1,
                "lease_until": 0.0,
            }
            for at, attributes in enumerate(SAMPLES)
        ]  # fmt: skip
        await session.execute(insert(StoreFile), rows)


async def passing(database: Database, wanted: Filter) -> list[int]:
    async with database.session() as session:
        query = select(StoreFile.id).where(clause(wanted)).order_by(StoreFile.id)
        return [at - 1 for at in await session.scalars(query)]


def test_database_and_python_agree(database: Database) -> None:
    with asyncio.Runner() as runner:
        runner.run(fill(database))

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(FILTERS)
        def agree(wanted: Filter) -> None:
            expected = [at for at, sample in enumerate(SAMPLES) if matches(wanted, sample)]
            assert runner.run(passing(database, wanted)) == expected

        agree()
        runner.run(database.close())


@given(ATTRIBUTES, FILTERS)
def test_negations_are_the_rest(attributes: dict[str, Any], wanted: Filter) -> None:
    opposite = {"eq": "ne", "in": "nin"}
    if isinstance(wanted, Comparison) and wanted.operator in opposite:
        negated = parse(raw(wanted) | {"type": opposite[wanted.operator]})
        assert matches(negated, attributes) != matches(wanted, attributes)


def raw(wanted: Filter) -> dict[str, Any]:
    if isinstance(wanted, Compound):
        return {"type": wanted.joint, "filters": [raw(one) for one in wanted.filters]}
    several = wanted.operator in ("in", "nin")
    value = list(wanted.values) if several else wanted.values[0]
    return {"type": wanted.operator, "key": wanted.key, "value": value}


@given(FILTERS)
def test_filter_is_read_as_it_was_written(wanted: Filter) -> None:
    assert parse(raw(wanted)) == wanted


@pytest.mark.parametrize(
    ("attributes", "operator", "value", "passes"),
    [
        ({"a": 3}, "gt", 2, True),
        ({"a": "3"}, "gt", 2, False),
        ({"a": True}, "eq", 1, False),
        ({}, "ne", "x", True),
        ({}, "nin", ["x"], True),
        ({}, "lt", 5, False),
        ({"a": "b"}, "in", ["a", "b"], True),
    ],
)
def test_values_of_another_kind_are_unequal(
    attributes: dict[str, Any], operator: str, value: Any, passes: bool
) -> None:
    wanted = parse({"type": operator, "key": "a", "value": value})
    assert matches(wanted, attributes) == passes


DEEP: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
for _ in range(8):
    DEEP = {"type": "and", "filters": [DEEP]}


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], {}, {"type": "like", "key": "a", "value": "b"}, {"type": "eq", "value": 1},
        {"type": "eq", "key": "", "value": 1}, {"type": "eq", "key": "a"},
        {"type": "eq", "key": "a", "value": [1]}, {"type": "eq", "key": "a", "value": float("nan")},
        {"type": "in", "key": "a", "value": "abc"}, {"type": "gt", "key": "a", "value": True},
        {"type": "and", "filters": []}, {"type": "or", "filters": [1]}, DEEP,
        {"type": "or", "filters": [{"type": "eq", "key": "a", "value": 1}] * 64},
        {"type": "eq", "key": "a", "value": "x\x00"}, {"type": "eq", "key": "a\x00", "value": 1},
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(wrong: Any) -> None:
    with pytest.raises(Refused) as refused:
        parse(wrong)
    assert refused.value.param == "filters"
