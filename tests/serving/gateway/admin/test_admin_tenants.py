"""`/admin/v1/tenants`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]


async def test_tenant_is_created_with_weight_one_and_shown(managed: Managed) -> None:
    made = await managed.data("POST", "/tenants", {"name": "new"})
    assert isinstance(made["created_at"], str)
    assert made == {
        "object": "tenant", "name": "new", "weight": 1, "created_at": made["created_at"],
    }  # fmt: skip
    assert await managed.data("GET", "/tenants/new") == made


async def test_weight_can_be_given_and_changed(managed: Managed) -> None:
    assert (await managed.data("POST", "/tenants", {"name": "new", "weight": 2.5}))["weight"] == 2.5
    assert (await managed.data("PATCH", "/tenants/new", {"weight": 1000}))["weight"] == 1000
    assert (await managed.data("GET", "/tenants/new"))["weight"] == 1000


async def test_tenants_come_in_pages_by_name(managed: Managed) -> None:
    first = await managed.data("GET", "/tenants", limit=1)
    assert [one["name"] for one in first["data"]] == ["acme"]
    assert (first["object"], first["has_more"], first["last_id"]) == ("list", True, "acme")
    last = await managed.data("GET", "/tenants", limit=1, after="acme")
    assert [one["name"] for one in last["data"]] == ["ops"]
    assert last["has_more"] is False
    assert await managed.data("GET", "/tenants", after="ops") == {
        "object": "list", "data": [], "has_more": False, "last_id": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": 1}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "new", "weight": 0}, "weight"),
        ({"name": "new", "weight": 1000.5}, "weight"),
        ({"name": "new", "weight": "1"}, "weight"),
        ({"name": "new", "weight": None}, "weight"),
    ],
)
async def test_wrong_field_is_named(managed: Managed, body: Any, param: str) -> None:
    assert await managed.refusal("POST", "/tenants", body) == (400, None, param)


async def test_name_is_taken_once(managed: Managed) -> None:
    assert await managed.refusal("POST", "/tenants", {"name": "acme"}) == (409, "conflict", None)


@pytest.mark.parametrize("name", ["nobody", "a%20b", "%00", "ä", "x" * 200])
async def test_tenant_that_does_not_exist_is_not_found(managed: Managed, name: str) -> None:
    for method, body in (("GET", None), ("PATCH", {"weight": 1}), ("DELETE", None)):
        refused = await managed.refusal(method, f"/tenants/{name}", body)
        assert refused == (404, "not_found", None)


async def test_deleted_tenant_is_gone_with_its_keys_and_limits(managed: Managed) -> None:
    await managed.data("PUT", "/limits/tenant/acme", {"tokens_per_minute": 1})
    await managed.data("PUT", f"/budgets/key/{managed.other_id}", {"day": 1})
    assert await managed.data("DELETE", "/tenants/acme") == {
        "id": "acme", "object": "tenant.deleted", "deleted": True,
    }  # fmt: skip
    for path in ("/tenants/acme", f"/keys/{managed.other_id}", "/limits/tenant/acme"):
        assert (await managed.call("GET", path)).status_code == 404
    assert (await managed.data("GET", "/budgets"))["data"] == []


async def test_admin_does_not_delete_the_tenant_of_the_key_in_use(managed: Managed) -> None:
    assert await managed.refusal("DELETE", "/tenants/ops") == (409, "conflict", None)
    assert (await managed.call("GET", "/tenants/ops")).status_code == 200
