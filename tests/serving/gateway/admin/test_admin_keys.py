"""`/admin/v1/keys`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]


async def test_created_key_is_shown_once_with_its_text_and_works(managed: Managed) -> None:
    made = await managed.data("POST", "/keys", {"tenant": "ops", "name": "new", "role": "admin"})
    key = made.pop("key")
    assert await managed.data("GET", f"/keys/{made['id']}") == made
    assert (await managed.call("GET", "/tenants", sent=key)).status_code == 200
    assert key not in (await managed.call("GET", "/keys")).text
    assert key not in (await managed.call("GET", "/audit")).text


async def test_key_is_shown_with_everything_that_is_known_of_it(managed: Managed) -> None:
    body = {
        "tenant": "acme", "name": "new", "expires_at": "2099-01-31T12:00:00+02:00",
        "allowed_models": ["m2", "org/m1"], "privacy": "scrubbed",
    }  # fmt: skip
    made = await managed.data("POST", "/keys", body)
    shown = await managed.data("GET", f"/keys/{made['id']}")
    assert shown == {
        "object": "key", "id": made["id"], "tenant": "acme", "name": "new", "role": "inference",
        "status": "active", "last4": made["key"][-4:], "created_at": made["created_at"],
        "expires_at": "2099-01-31T10:00:00Z", "revoked_at": None,
        "allowed_models": ["m2", "org/m1"], "privacy": "scrubbed", "groups": [], "user": None,
        "rotated_from": None,
    }  # fmt: skip


async def test_empty_list_of_models_is_not_every_model(managed: Managed) -> None:
    body = {"tenant": "acme", "name": "new", "allowed_models": []}
    made = await managed.data("POST", "/keys", body)
    assert made["allowed_models"] == []


async def test_keys_of_one_tenant_come_in_pages(managed: Managed) -> None:
    for name in ("a", "b"):
        await managed.data("POST", "/keys", {"tenant": "acme", "name": name})
    first = await managed.data("GET", "/keys", tenant="acme", limit=2)
    rest = await managed.data("GET", "/keys", tenant="acme", limit=2, after=first["last_id"])
    assert [[one["name"] for one in page["data"]] for page in (first, rest)] == [["a", "b"], ["ci"]]
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_cursor_of_no_key_is_not_found(managed: Managed) -> None:
    refused = await managed.refusal("GET", "/keys", after="000000000000")
    assert refused == (404, "not_found", None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tenant": None}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"name": ""}, "name"),
        ({"role": "root"}, "role"),
        ({"privacy": "none"}, "privacy"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"expires_at": 4102444800}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"allowed_models": "chat"}, "allowed_models"),
        ({"allowed_models": ["ok", "a b"]}, "allowed_models[1]"),
    ],
)
async def test_wrong_field_is_named(managed: Managed, fields: Any, param: str) -> None:
    body = {"tenant": "acme", "name": "new"} | fields
    assert await managed.refusal("POST", "/keys", body) == (400, None, param)


async def test_key_of_a_tenant_that_does_not_exist_is_refused(managed: Managed) -> None:
    body = {"tenant": "nobody", "name": "new"}
    assert await managed.refusal("POST", "/keys", body) == (404, "not_found", None)
    assert (await managed.call("GET", "/tenants/nobody")).status_code == 404


async def test_default_tenant_is_added_for_its_first_key(managed: Managed) -> None:
    await managed.data("POST", "/keys", {"tenant": "default", "name": "new"})
    assert (await managed.call("GET", "/tenants/default")).status_code == 200


async def test_name_is_taken_once_in_a_tenant(managed: Managed) -> None:
    body = {"tenant": "acme", "name": "ci"}
    assert await managed.refusal("POST", "/keys", body) == (409, "conflict", None)


async def test_revoked_key_stays_listed_and_can_be_revoked_again(managed: Managed) -> None:
    path = f"/keys/{managed.other_id}"
    for _ in range(2):
        assert await managed.data("DELETE", path) == {
            "id": managed.other_id, "object": "key.deleted", "deleted": True,
        }  # fmt: skip
    assert (await managed.data("GET", path))["status"] == "revoked"
    assert [event[1] for event in await managed.audit()] == ["key.revoke"]


async def test_key_is_named_by_its_id_only(managed: Managed) -> None:
    for method, path, body in (
        ("GET", "/keys/ci", None), ("DELETE", "/keys/ci", None), ("POST", "/keys/ci/rotate", {}),
    ):  # fmt: skip
        assert await managed.refusal(method, path, body) == (404, "not_found", None)


async def test_rotated_key_is_replaced_after_its_grace(managed: Managed) -> None:
    path, grace = f"/keys/{managed.other_id}", timedelta(seconds=60)
    before = datetime.now(UTC).replace(microsecond=0)
    made = await managed.data("POST", f"{path}/rotate", {"grace_s": 60})
    after = datetime.now(UTC)
    assert (made["name"], made["rotated_from"]) == ("ci", managed.other_id)
    old = await managed.data("GET", path)
    assert old["status"] == "retiring"
    assert before + grace <= datetime.fromisoformat(old["revoked_at"]) <= after + grace
    assert await managed.refusal("POST", f"{path}/rotate", {}) == (409, "conflict", None)


async def test_rotation_keeps_limits_and_budgets(managed: Managed) -> None:
    await managed.data("PUT", f"/limits/key/{managed.other_id}", {"requests_per_minute": 3})
    made = await managed.data("POST", f"/keys/{managed.other_id}/rotate", {})
    limits = await managed.data("GET", f"/limits/key/{made['id']}")
    assert limits["requests_per_minute"]["value"] == 3


@pytest.mark.parametrize("grace_s", [-1, 1e9, "1", None])
async def test_grace_out_of_bounds_is_refused(managed: Managed, grace_s: Any) -> None:
    path = f"/keys/{managed.other_id}/rotate"
    assert await managed.refusal("POST", path, {"grace_s": grace_s}) == (400, None, "grace_s")


ONCE, OTHER = ({"idempotency-key": name} for name in ("once", "other"))


async def test_repeat_with_an_idempotency_key_makes_one_key(managed: Managed) -> None:
    body = {"tenant": "acme", "name": "new"}
    made, again = [await managed.call("POST", "/keys", body, headers=ONCE) for _ in range(2)]
    assert (made.status_code, again.json()) == (200, made.json())
    assert {answer.headers["cache-control"] for answer in (made, again)} == {"no-store"}
    rotated, repeated = [
        await managed.call("POST", f"/keys/{made.json()['id']}/rotate", {}, headers=OTHER)
        for _ in range(2)
    ]
    assert (rotated.status_code, repeated.json()) == (200, rotated.json())
    assert [event[1] for event in await managed.audit()] == ["key.create", "key.rotate"]


async def test_idempotency_key_of_another_body_is_refused(managed: Managed) -> None:
    await managed.call("POST", "/keys", {"tenant": "acme", "name": "new"}, headers=ONCE)
    body = {"tenant": "acme", "name": "newer"}
    refused = await managed.refusal("POST", "/keys", body, headers=ONCE)
    assert refused == (409, "idempotency_key_reused", None)


async def test_refusal_is_told_as_ever_and_its_idempotency_key_is_free_again(
    managed: Managed,
) -> None:
    body = {"tenant": "nobody", "name": "new"}
    refused = await managed.refusal("POST", "/keys", body, headers=ONCE)
    assert refused == (404, "not_found", None)
    await managed.data("POST", "/tenants", {"name": "nobody"})
    assert (await managed.call("POST", "/keys", body, headers=ONCE)).status_code == 200
