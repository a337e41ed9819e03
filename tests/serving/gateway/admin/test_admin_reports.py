"""`/admin/v1/usage` and `/admin/v1/audit`."""

from __future__ import annotations

import csv
import io
from datetime import date
from typing import Any

import pytest

from serving.accounting.usage import UsageRow
from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]

ROW = UsageRow(
    group={"day": "2026-11-01", "model": "org/large"},
    requests=3,
    failed=1,
    prompt_tokens=30,
    cached_tokens=10,
    completion_tokens=7,
    cost_nanos=12_345_678,
    duration_ms=1234.5,
)


async def test_usage_is_shown_by_group_with_its_cost_in_the_currency(managed: Managed) -> None:
    managed.usage.rows = [ROW]
    assert await managed.data("GET", "/usage", group_by="day,model") == {
        "object": "list", "currency": "USD",
        "data": [{
            "object": "usage", "day": "2026-11-01", "model": "org/large", "requests": 3,
            "failed": 1, "prompt_tokens": 30, "cached_tokens": 10, "completion_tokens": 7,
            "cost": "0.012345678", "duration_ms": 1234.5,
        }],
    }  # fmt: skip


async def test_usage_is_csv_on_request(managed: Managed) -> None:
    managed.usage.rows = [ROW, ROW]
    answer = await managed.call("GET", "/usage", group_by="day,model", format="csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.startswith(
        "day,model,requests,failed,prompt_tokens,cached_tokens,completion_tokens,cost,duration_ms,"
        "currency\r\n2026-11-01,org/large,3,1,30,10,7,0.012345678,1234.5,USD\r\n"
    )
    assert len(list(csv.reader(io.StringIO(answer.text)))) == 3


async def test_csv_without_usage_has_a_header(managed: Managed) -> None:
    answer = await managed.call("GET", "/usage", group_by="", format="csv")
    assert answer.text.splitlines() == [
        "requests,failed,prompt_tokens,cached_tokens,completion_tokens,cost,duration_ms,currency"
    ]


async def test_filters_reach_the_report(managed: Managed) -> None:
    await managed.data(
        "GET", "/usage", group_by="tenant,key", since="2026-11-01", until="2026-11-30",
        tenant="acme", key="abc", model="org/large",
    )  # fmt: skip
    assert managed.usage.asked == [
        {
            "group_by": ["tenant", "key"], "since": date(2026, 11, 1), "until": date(2026, 11, 30),
            "tenant": "acme", "key_id": "abc", "model": "org/large",
        }
    ]  # fmt: skip


async def test_usage_is_of_all_time_by_day_unless_told(managed: Managed) -> None:
    await managed.data("GET", "/usage")
    await managed.data("GET", "/usage", group_by="")
    nothing = dict.fromkeys(("since", "until", "tenant", "key_id", "model"))
    assert managed.usage.asked == [
        {"group_by": ["day"], **nothing}, {"group_by": [], **nothing},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"group_by": "hour"}, "group_by"),
        ({"group_by": "day,day"}, "group_by"),
        ({"since": "yesterday"}, "since"),
        ({"since": "1700000000"}, "since"),
        ({"until": "2026-02-30"}, "until"),
        ({"since": "2026-11-02", "until": "2026-11-01"}, "until"),
        ({"tenant": "a b"}, "tenant"),
        ({"key": ""}, "key"),
        ({"model": "=1+1"}, "model"),
        ({"format": "xml"}, "format"),
    ],
)
async def test_wrong_filter_is_named(managed: Managed, query: Any, param: str) -> None:
    assert await managed.refusal("GET", "/usage", **query) == (400, None, param)
    assert managed.usage.asked == []


async def test_audit_tells_the_newest_change_first_and_pages_back(managed: Managed) -> None:
    for weight in (1, 2, 3):
        await managed.data("PATCH", "/tenants/acme", {"weight": weight})
    first = await managed.data("GET", "/audit", limit=2)
    rest = await managed.data("GET", "/audit", limit=1, before=first["last_id"])
    assert [event["change"] for event in first["data"] + rest["data"]] == [
        {"weight": 3}, {"weight": 2}, {"weight": 1},
    ]  # fmt: skip
    assert (first["object"], first["has_more"]) == ("list", True)


async def test_audit_event_has_every_field(managed: Managed) -> None:
    await managed.data("PATCH", "/tenants/acme", {"weight": 2})
    (event,) = (await managed.data("GET", "/audit", limit=1))["data"]
    assert event == {
        "object": "audit_event", "id": event["id"], "at": event["at"], "actor": managed.key_id,
        "action": "tenant.update", "subject_kind": "tenant", "subject": "acme",
        "change": {"weight": 2},
    }  # fmt: skip


async def test_audit_ends(managed: Managed) -> None:
    first = await managed.data("GET", "/audit", limit=100)
    assert first["has_more"] is False
    older = await managed.data("GET", "/audit", before=first["last_id"])
    assert older == {"object": "list", "data": [], "has_more": False, "last_id": None}
