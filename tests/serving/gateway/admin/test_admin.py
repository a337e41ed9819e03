"""`/admin/v1`: for admin keys only, audited, and described by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
from fastapi.routing import APIRoute

from serving.config import LimitSettings, ServerSettings
from serving.gateway.admin import routes
from serving.gateway.admin.administration import MAX_BODY_BYTES
from serving.gateway.idempotency import Idempotency
from serving.storage.errors import DatabaseUnavailable
from tests.serving.managed import Managed, database, managed, managed_store

__all__ = ["database", "managed", "managed_store"]

Route = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A call of a route that changes something. `{id}` is the id of the non-admin key."""

    path: str
    body: Any = None


CHANGES: dict[Route, Example] = {
    ("POST", "/tenants"): Example("/tenants", {"name": "new"}),
    ("PATCH", "/tenants/{name}"): Example("/tenants/acme", {"weight": 2}),
    ("DELETE", "/tenants/{name}"): Example("/tenants/acme"),
    ("POST", "/keys"): Example("/keys", {"tenant": "acme", "name": "new"}),
    ("DELETE", "/keys/{key_id}"): Example("/keys/{id}"),
    ("POST", "/keys/{key_id}/rotate"): Example("/keys/{id}/rotate", {}),
    ("PUT", "/limits/{kind}/{subject}"): Example("/limits/model/chat", {"tokens_per_minute": 1}),
    ("DELETE", "/limits/{kind}/{subject}"): Example("/limits/tenant/acme"),
    ("PUT", "/budgets/{kind}/{subject}"): Example("/budgets/key/{id}", {"day": 1}),
    ("DELETE", "/budgets/{kind}/{subject}"): Example("/budgets/tenant/acme"),
}
READS: dict[Route, str] = {
    ("GET", "/tenants"): "/tenants",
    ("GET", "/tenants/{name}"): "/tenants/acme",
    ("GET", "/keys"): "/keys",
    ("GET", "/keys/{key_id}"): "/keys/{id}",
    ("GET", "/limits"): "/limits",
    ("GET", "/limits/{kind}/{subject}"): "/limits/model/org/large",
    ("GET", "/budgets"): "/budgets",
    ("GET", "/budgets/{kind}/{subject}"): "/budgets/tenant/acme",
    ("GET", "/usage"): "/usage",
    ("GET", "/audit"): "/audit",
    ("GET", "/openapi.json"): "/openapi.json",
}
PREVIEW: Route = ("POST", "/privacy/preview")
CALLS: dict[Route, Example] = {
    **CHANGES,
    **{route: Example(path) for route, path in READS.items()},
    PREVIEW: Example("/privacy/preview", {"tenant": "acme", "body": {}}),
}


def described(document: dict[str, Any]) -> Iterator[tuple[Route, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield (method.upper(), path.removeprefix("/admin/v1")), operation


def name_of(route: Route) -> str:
    return " ".join(route)


async def call(managed: Managed, route: Route, **arguments: Any) -> httpx.Response:
    example = CALLS[route]
    path = example.path.replace("{id}", managed.other_id)
    return await managed.call(route[0], path, example.body, **arguments)


@pytest.fixture
async def limited(managed: Managed) -> Managed:
    """Return a managed gateway with limits and budgets that can be removed."""
    await managed.data("PUT", "/limits/tenant/acme", {"tokens_per_minute": 1})
    await managed.data("PUT", "/budgets/tenant/acme", {"day": 1})
    return managed


def routes_of(managed: Managed) -> set[Route]:
    router = routes.router(
        managed.administration,
        cast("Idempotency", None),  # Nothing is asked of it.
        server=ServerSettings(),
        limits=LimitSettings(),
    )
    return {
        (method, re.sub(r":path\}", "}", route.path.removeprefix("/admin/v1")))
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


async def test_every_route_has_an_example_here(managed: Managed) -> None:
    assert routes_of(managed) == set(CALLS)


@pytest.mark.parametrize("route", CHANGES, ids=name_of)
async def test_every_change_is_audited_with_the_key_that_made_it(
    limited: Managed, route: Route
) -> None:
    before = await limited.audit()
    assert (await call(limited, route)).status_code == 200
    after = await limited.audit()
    assert len(after) > len(before)
    assert {actor for actor, _, _ in after[len(before) :]} == {limited.key_id}


@pytest.mark.parametrize("route", READS, ids=name_of)
async def test_reading_is_not_audited(limited: Managed, route: Route) -> None:
    before = await limited.audit()
    assert (await call(limited, route)).status_code == 200
    assert await limited.audit() == before


@pytest.mark.parametrize("route", CALLS, ids=name_of)
@pytest.mark.parametrize(
    ("key", "status", "code"),
    [("other", 403, "not_permitted"), ("wrong", 401, "invalid_api_key")],
)
async def test_every_route_is_for_admin_keys_only(
    limited: Managed, route: Route, key: str, status: int, code: str
) -> None:
    before = await limited.audit()
    answer = await call(limited, route, sent=limited.other if key == "other" else key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await limited.audit() == before


@pytest.mark.parametrize("route", CALLS, ids=name_of)
async def test_every_route_needs_a_key(limited: Managed, route: Route) -> None:
    path = CALLS[route].path.replace("{id}", limited.other_id)
    answer = await limited.client.request(route[0], f"/admin/v1{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize("route", [r for r, e in CALLS.items() if e.body is not None], ids=name_of)
async def test_key_is_checked_before_the_body_is_read(managed: Managed, route: Route) -> None:
    async def body() -> Any:
        raise AssertionError("the body was read")
        yield b""

    path = CALLS[route].path.replace("{id}", managed.other_id)
    answer = await managed.client.request(
        route[0],
        f"/admin/v1{path}",
        content=body(),
        headers={"authorization": f"Bearer {managed.other}"},
    )
    assert answer.status_code == 403


async def test_key_is_checked_before_the_query(managed: Managed) -> None:
    answer = await managed.client.get("/admin/v1/keys?limit=nonsense")
    assert answer.status_code == 401


@pytest.mark.parametrize("route", [r for r, e in CALLS.items() if e.body is not None], ids=name_of)
async def test_unknown_field_of_a_body_is_an_error(limited: Managed, route: Route) -> None:
    example = CALLS[route]
    path = example.path.replace("{id}", limited.other_id)
    before = await limited.audit()
    refused = await limited.refusal(route[0], path, example.body | {"wieght": 1})
    assert refused == (400, None, "wieght")
    assert await limited.audit() == before


@pytest.mark.parametrize("path", ["/tenants", "/keys", "/limits", "/budgets", "/audit", "/usage"])
@pytest.mark.parametrize(
    ("query", "param"), [({"lmit": 1}, "lmit"), ({"limit": "x"}, "limit")], ids=["name", "value"]
)
async def test_wrong_query_is_an_error(
    managed: Managed, path: str, query: dict[str, Any], param: str
) -> None:
    assert await managed.refusal("GET", path, **query) == (400, None, param)


@pytest.mark.parametrize("limit", [0, 101])
async def test_page_has_one_to_a_hundred_items(managed: Managed, limit: int) -> None:
    for path in ("/tenants", "/keys", "/limits", "/budgets", "/audit"):
        assert await managed.refusal("GET", path, limit=limit) == (400, None, "limit")


async def test_body_that_is_too_large_or_late_or_no_object_is_refused(managed: Managed) -> None:
    large = {"name": "a" * MAX_BODY_BYTES}
    assert await managed.refusal("POST", "/tenants", large) == (413, "request_too_large", None)
    assert await managed.refusal("POST", "/tenants", [1]) == (400, None, None)


async def test_unknown_path_and_wrong_method_are_told_in_the_envelope(managed: Managed) -> None:
    assert await managed.refusal("GET", "/nothing") == (404, "unknown_url", None)
    assert await managed.refusal("DELETE", "/audit") == (405, "method_not_allowed", None)


async def test_answers_are_kept_by_no_cache(managed: Managed) -> None:
    answer = await managed.call("GET", "/keys")
    assert answer.headers["cache-control"] == "no-store"


async def test_database_that_is_away_is_told_without_its_name(managed: Managed) -> None:
    managed.usage.error = DatabaseUnavailable("the database postgresql://secret-host is away")
    answer = await managed.call("GET", "/usage")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "state_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert "secret-host" not in answer.text


async def test_document_has_every_route_and_describes_it(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    operations = dict(described(document))
    assert set(operations) == set(CALLS)
    assert all(one["summary"] and one["description"] for one in operations.values())
    ids = [one["operationId"] for one in operations.values()]
    assert len(set(ids)) == len(ids)


async def test_document_has_bodies_answers_and_errors_of_every_route(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    for route, operation in described(document):
        assert ("requestBody" in operation) == (CALLS[route].body is not None), route
        good = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert "$ref" in good or route[1] == "/openapi.json", route
        for status in ("400", "401", "403", "default"):
            told = operation["responses"][status]["content"]["application/json"]["schema"]
            assert told == {"$ref": "#/components/schemas/ErrorEnvelope"}
        assert "422" not in operation["responses"]


async def test_document_has_the_parameters_of_every_path(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    for (_, path), operation in described(document):
        told = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert told == set(re.findall(r"\{(\w+)\}", path))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


async def test_document_has_all_it_refers_to(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    found = set(references(document))
    assert found
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node["description"], reference


async def test_document_says_which_version_of_openapi_and_which_key(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert document["security"] == [{"adminKey": []}]
    scheme = document["components"]["securitySchemes"]["adminKey"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


async def test_page_of_a_list_is_described_as_it_comes(managed: Managed) -> None:
    document = await managed.data("GET", "/openapi.json")
    page = document["components"]["schemas"]["KeyPage"]
    answer = await managed.data("GET", "/keys")
    assert set(page["properties"]) == set(answer)
    assert set(document["components"]["schemas"]["KeyObject"]["properties"]) == set(
        answer["data"][0]
    )
