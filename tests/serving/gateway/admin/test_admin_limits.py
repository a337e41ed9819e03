"""`/admin/v1/limits` and `/admin/v1/budgets`."""

from __future__ import annotations

from typing import Any

import pytest

from serving.admission.limits import MAX_VALUE, Limit, Subject
from serving.domain.quota import Spent
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable
from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]

RATES = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_request")


def values(limits: dict[str, Any]) -> dict[str, int]:
    return {rate: limits[rate]["value"] for rate in RATES if limits[rate] is not None}


async def test_limits_are_shown_by_measure(managed: Managed) -> None:
    body = {"requests_per_minute": 60, "concurrent_requests": {"value": 4}}
    made = await managed.data("PUT", "/limits/tenant/acme", body)
    assert made == await managed.data("GET", "/limits/tenant/acme")
    updated_at = made["requests_per_minute"]["updated_at"]
    assert made == {
        "object": "limits", "id": "tenant:acme", "kind": "tenant", "subject": "acme",
        "requests_per_minute": {"value": 60, "without_store": "allow", "updated_at": updated_at},
        "tokens_per_minute": None,
        "concurrent_requests": made["concurrent_requests"],
        "tokens_per_request": None,
    }  # fmt: skip


async def test_limit_may_refuse_while_nothing_is_counted(managed: Managed) -> None:
    body = {"tokens_per_minute": {"value": 5, "without_store": "refuse"}}
    made = await managed.data("PUT", "/limits/tenant/acme", body)
    assert made["tokens_per_minute"]["without_store"] == "refuse"


async def test_what_is_left_out_stays_and_null_takes_away(managed: Managed) -> None:
    path = "/limits/tenant/acme"
    await managed.data("PUT", path, dict.fromkeys(RATES, 1))
    made = await managed.data("PUT", path, {"tokens_per_minute": None, "tokens_per_request": 0})
    assert values(made) == {
        "requests_per_minute": 1, "concurrent_requests": 1, "tokens_per_request": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["tenant", "key", "model"])
async def test_every_kind_of_subject_has_limits(managed: Managed, kind: str) -> None:
    name = {"tenant": "acme", "key": managed.other_id, "model": "org/large"}[kind]
    made = await managed.data("PUT", f"/limits/{kind}/{name}", {"tokens_per_minute": 1})
    assert (made["kind"], made["subject"], made["id"]) == (kind, name, f"{kind}:{name}")
    assert await managed.data("GET", f"/limits/{kind}/{name}") == made


@pytest.mark.parametrize("path", ["/limits/tenant/default", "/limits/key/env"])
async def test_default_tenant_and_fixed_key_have_limits_without_a_row(
    managed: Managed, path: str
) -> None:
    assert values(await managed.data("GET", path)) == {}
    assert values(await managed.data("PUT", path, {"tokens_per_minute": 1})) != {}


@pytest.mark.parametrize(
    "path",
    ["tenant/nobody", "key/000000000000", "key/ci", "model/nope", "model/chat/x", "tenant/a%20b",
     "tenant/%00", "model/%00", "key/x%0A"],
)  # fmt: skip
async def test_subject_that_does_not_exist_is_not_found(managed: Managed, path: str) -> None:
    body = {"tokens_per_minute": 1}
    for method in ("GET", "PUT", "DELETE"):
        refused = await managed.refusal(
            method, f"/limits/{path}", body if method == "PUT" else None
        )
        assert refused == (404, "not_found", None)
    assert await managed.audit() == []


async def test_limits_of_a_model_that_is_served_no_more_can_be_removed(managed: Managed) -> None:
    old = Limit(Subject("model", "old"), "tokens_per_minute", 1, "allow")
    await managed.administration.limits.set(old)
    assert values(await managed.data("GET", "/limits/model/old")) == {"tokens_per_minute": 1}
    await managed.data("DELETE", "/limits/model/old")
    assert (await managed.call("GET", "/limits/model/old")).status_code == 404


async def test_unknown_kind_is_named(managed: Managed) -> None:
    assert await managed.refusal("GET", "/limits/user/x") == (400, None, "kind")
    assert await managed.refusal("PUT", "/budgets/model/chat", {"day": 1}) == (400, None, "kind")


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (-1, "tokens_per_minute"),
        (MAX_VALUE + 1, "tokens_per_minute"),
        (1.5, "tokens_per_minute"),
        ("1", "tokens_per_minute"),
        (True, "tokens_per_minute"),
        ({}, "tokens_per_minute.value"),
        ({"value": -1}, "tokens_per_minute.value"),
        ({"value": None}, "tokens_per_minute.value"),
        ({"value": 1, "without_store": "ignore"}, "tokens_per_minute.without_store"),
        ({"value": 1, "whithout_store": "allow"}, "tokens_per_minute.whithout_store"),
    ],
)
async def test_wrong_limit_is_named_and_nothing_is_set(
    managed: Managed, value: Any, param: str
) -> None:
    body = {"requests_per_minute": 1, "tokens_per_minute": value}
    assert await managed.refusal("PUT", "/limits/tenant/acme", body) == (400, None, param)
    assert values(await managed.data("GET", "/limits/tenant/acme")) == {}


@pytest.mark.parametrize("path", ["/limits/tenant/acme", "/budgets/tenant/acme"])
async def test_change_of_nothing_is_refused(managed: Managed, path: str) -> None:
    assert await managed.refusal("PUT", path, {}) == (400, None, None)


async def test_limits_and_budgets_do_not_touch_each_other(managed: Managed) -> None:
    await managed.data("PUT", "/limits/tenant/acme", {"tokens_per_minute": 1})
    await managed.data("PUT", "/budgets/tenant/acme", {"day": 1})
    assert await managed.data("DELETE", "/limits/tenant/acme") == {
        "id": "tenant:acme", "object": "limits.deleted", "deleted": True,
    }  # fmt: skip
    assert (await managed.data("GET", "/budgets/tenant/acme"))["day"]["amount"] == "1"
    await managed.data("PUT", "/limits/tenant/acme", {"tokens_per_minute": 1})
    assert await managed.data("DELETE", "/budgets/tenant/acme") == {
        "id": "tenant:acme", "object": "budgets.deleted", "deleted": True,
    }  # fmt: skip
    assert values(await managed.data("GET", "/limits/tenant/acme")) == {"tokens_per_minute": 1}


@pytest.mark.parametrize("path", ["/limits/tenant/acme", "/budgets/tenant/acme"])
async def test_what_is_not_there_cannot_be_removed(managed: Managed, path: str) -> None:
    assert await managed.refusal("DELETE", path) == (404, "not_found", None)


@pytest.mark.parametrize(("path", "measure"), [("limits", "tokens_per_minute"), ("budgets", "day")])
async def test_list_comes_in_pages_by_kind_and_name(
    managed: Managed, path: str, measure: str
) -> None:
    subjects = ["key:env", f"key:{managed.other_id}", "tenant:acme", "tenant:ops"]
    for subject in subjects:
        await managed.data("PUT", f"/{path}/{subject.replace(':', '/')}", {measure: 1})
    found: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await managed.data("GET", f"/{path}", **query)
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert found == sorted(subjects)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0, "0"),
        (5, "5"),
        (0.1, "0.1"),
        (10.5, "10.5"),
        (1e-9, "0.000000001"),
        ("0.000000001", "0.000000001"),
        ("12.340", "12.34"),
        ("100", "100"),
        ("9007199.254740991", "9007199.254740991"),
        (999999.999999999, "999999.999999999"),
        (9000000.0, "9000000"),
        ({"amount": 3}, "3"),
        ({"amount": "3.000000001", "without_store": "allow"}, "3.000000001"),
    ],
)
async def test_amount_is_kept_exactly(managed: Managed, given: Any, shown: str) -> None:
    made = await managed.data("PUT", "/budgets/tenant/acme", {"month": given})
    assert made["month"]["amount"] == shown


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (-1, "day"),
        (-0.5, "day"),
        ("-1", "day"),
        ("1e3", "day"),
        ("1,5", "day"),
        ("", "day"),
        ("1.0000000001", "day"),
        (1e-10, "day"),
        (1e300, "day"),
        (10**30, "day"),
        ("9007199.254740992", "day"),
        (9007199.254740991, "day"),
        (1000000.5, "day"),
        ("NaN", "day"),
        ("\u0661", "day"),
        (True, "day"),
        ([], "day"),
        ({"amount": "x"}, "day.amount"),
        ({"amount": None}, "day.amount"),
        ({}, "day.amount"),
    ],
)
async def test_amount_that_is_none_or_not_exact_is_refused(
    managed: Managed, given: Any, param: str
) -> None:
    refused = await managed.refusal("PUT", "/budgets/tenant/acme", {"day": given})
    assert refused == (400, None, param)


async def test_budget_is_shown_with_what_is_spent_of_it(managed: Managed) -> None:
    managed.spending.spent["tenant:acme", "day"] = Spent(1_250_000_000, 1)
    made = await managed.data("PUT", "/budgets/tenant/acme", {"day": 2, "total": 3})
    assert await managed.data("GET", "/budgets/tenant/acme") == made
    assert (await managed.data("GET", "/budgets"))["data"] == [made]
    assert made == {
        "object": "budgets", "id": "tenant:acme", "kind": "tenant", "subject": "acme",
        "currency": "USD",
        "day": {
            "amount": "2", "spent": "1.25", "reserved": "0.000000001", "without_store": "refuse",
            "updated_at": made["day"]["updated_at"],
        },
        "month": None,
        "total": {
            "amount": "3", "spent": "0", "reserved": "0", "without_store": "refuse",
            "updated_at": made["total"]["updated_at"],
        },
    }  # fmt: skip


@pytest.mark.parametrize("error", [ValkeyUnavailable("x"), DatabaseUnavailable("x")])
async def test_spending_that_cannot_be_told_is_told(managed: Managed, error: Exception) -> None:
    await managed.data("PUT", "/budgets/tenant/acme", {"day": 2})
    managed.spending.error = error
    for path in ("/budgets", "/budgets/tenant/acme"):
        assert await managed.refusal("GET", path) == (503, "state_unavailable", None)


async def test_budget_can_be_changed_while_spending_cannot_be_told(managed: Managed) -> None:
    managed.spending.error = ValkeyUnavailable("x")
    made = await managed.data("PUT", "/budgets/tenant/acme", {"day": 2})
    assert (made["day"]["amount"], made["day"]["spent"]) == ("2", None)
    assert [event[1] for event in await managed.audit()] == ["limit.set"]
