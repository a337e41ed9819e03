"""`/admin/v1/keys`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from serving.access.key_records import IssuedKey, KeyRecord, Status
from serving.access.keys import KeyStore
from serving.access.tenants import DEFAULT_TENANT
from serving.domain.clock import utc_now
from serving.domain.principal import Role
from serving.domain.privacy_class import PrivacyClass
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject, AdminPage, Deleted
from serving.gateway.admin.openapi import takes_once
from serving.gateway.admin.queries import KeysQuery
from serving.gateway.admin.wire import KeyCreation, KeyRotation
from serving.gateway.edge import principal


class KeyObject(AdminObject):
    """A key, without its text."""

    object: Literal["key"] = "key"
    id: str
    tenant: str
    name: str
    role: Role
    status: Status
    last4: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    allowed_models: list[str] | None
    privacy: PrivacyClass
    groups: list[str]
    user: str | None
    rotated_from: str | None

    @classmethod
    def of(cls, record: KeyRecord) -> Self:
        """Show a key."""
        return cls(**_shown(record))


class NewKeyObject(KeyObject):
    """A key that was just issued."""

    key: str = Field(description="The key's text. It is never shown again.")

    @classmethod
    def issued(cls, issued: IssuedKey) -> Self:
        """A new key with its text, for the only time."""
        return cls(**_shown(issued.record), key=issued.key.get_secret_value())


class KeyPage(AdminPage[KeyObject]):
    """Keys by tenant, name and age."""


def _shown(record: KeyRecord) -> dict[str, Any]:
    models = record.allowed_models
    return {
        "id": record.id,
        "tenant": record.tenant,
        "name": record.name,
        "role": record.role,
        "status": record.status(utc_now()),
        "last4": record.last4,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "allowed_models": None if models is None else list(models),
        "privacy": record.privacy,
        "groups": list(record.groups),
        "user": record.user,
        "rotated_from": record.rotated_from,
    }


def router(administration: Administration, edge: AdminEdge) -> APIRouter:
    """Routes over the keys."""
    routes = APIRouter(prefix="/keys", tags=["Keys"], route_class=AdminRoute)
    keys = administration.keys

    @routes.get("", summary="List keys")
    async def list_keys(query: Annotated[KeysQuery, Query()]) -> KeyPage:
        """Keys by tenant, name and age; those that are revoked or have expired too."""
        found = await keys.list(query.tenant, limit=query.limit + 1, after=query.after)
        return KeyPage.of(found, query.limit, show=KeyObject.of, id_of=lambda one: one.id)

    @routes.get("/{key_id}", summary="Get a key")
    async def get_key(key_id: str) -> KeyObject:
        """Return a key, without its text."""
        return KeyObject.of(await keys.get(key_id))

    @routes.delete("/{key_id}", summary="Revoke a key")
    async def revoke_key(request: Request, key_id: str) -> Deleted:
        """Revoke a key for good. It stays in the list."""
        record = await keys.get(key_id)  # By its id only: a name could be another key's.
        await keys.revoke(record.id, actor=principal(request).key_id)
        return Deleted(id=record.id, object="key.deleted")

    _add_issuing(routes, administration.keys, edge)
    return routes


def _add_issuing(routes: APIRouter, keys: KeyStore, edge: AdminEdge) -> None:
    """Add the routes that give a new key."""

    @routes.post(
        "",
        summary="Create a key",
        response_model=NewKeyObject,
        openapi_extra=takes_once(KeyCreation),
    )
    async def create_key(request: Request) -> Response:
        """Issues a key. Its text is in this answer and nowhere else."""

        async def create(wire: KeyCreation) -> NewKeyObject:
            issued = await keys.create(
                wire.tenant,
                wire.name,
                role=wire.role,
                expires_at=wire.expires_at,
                allowed_models=wire.allowed_models,
                privacy=wire.privacy,
                groups=wire.groups,
                user=wire.user,
                new_tenant=wire.tenant == DEFAULT_TENANT,
                actor=principal(request).key_id,
            )
            return NewKeyObject.issued(issued)

        return await edge.answer(request, KeyCreation, create)

    @routes.post(
        "/{key_id}/rotate",
        summary="Rotate a key",
        response_model=NewKeyObject,
        openapi_extra=takes_once(KeyRotation),
    )
    async def rotate_key(request: Request, key_id: str) -> Response:
        """Replaces a key by one with the same name, rights, limits and budgets."""

        async def rotate(wire: KeyRotation) -> NewKeyObject:
            record = await keys.get(key_id)
            actor = principal(request).key_id
            issued = await keys.rotate(record.id, grace_s=wire.grace_s, actor=actor)
            return NewKeyObject.issued(issued)

        return await edge.answer(request, KeyRotation, rotate)
