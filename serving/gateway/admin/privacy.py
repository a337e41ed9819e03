"""`/admin/v1/privacy/preview`: what would leave of a request, without anything leaving."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from serving.domain.errors import Conflict, LeavingRefused
from serving.domain.languages import READ
from serving.gateway.admin.administration import AdminEdge, Administration, AdminRoute
from serving.gateway.admin.objects import AdminObject
from serving.gateway.admin.openapi import takes
from serving.gateway.admin.wire import PrivacyPreview


class PreviewObject(AdminObject):
    """The request as it would leave, or the reason why it would not."""

    object: Literal["privacy.preview"] = "privacy.preview"
    leaves: bool
    reason: str | None = Field(description="Why nothing would leave, in one word.")
    detail: str | None = Field(description="The same in a sentence, such as the language it is in.")
    body: dict[str, Any] | None = Field(description="What would be sent, before a provider's form.")
    entities: dict[str, int] = Field(description="How many values of each kind were replaced.")
    policy: str | None = Field(description="Version of what is done to personal data.")
    read_languages: list[str] = Field(description="Languages that are read for names.")
    allowed_languages: list[str] = Field(description="Those that may leave though they are not.")


def router(administration: Administration, edge: AdminEdge) -> APIRouter:
    """The route over the scrubber. It keeps nothing of what it is sent."""
    routes = APIRouter(prefix="/privacy", tags=["Privacy"], route_class=AdminRoute)

    @routes.post("/preview", summary="Preview what leaves", openapi_extra=takes(PrivacyPreview))
    async def preview(request: Request) -> PreviewObject:
        """Scrubs a request of class `scrubbed` as it would be for a provider."""
        wire = await edge.read(request, PrivacyPreview)
        scrubber = administration.scrubber
        if scrubber is None:
            raise Conflict("No provider is configured, so nothing leaves and nothing is scrubbed.")
        languages = {
            "read_languages": sorted(READ),
            "allowed_languages": sorted(scrubber.languages),
        }
        try:
            outbound = await scrubber.outbound(wire.body, tenant=wire.tenant, privacy="scrubbed")
        except LeavingRefused as error:
            return PreviewObject(
                leaves=False,
                reason=error.reason,
                detail=error.detail,
                body=None,
                entities={},
                policy=None,
                **languages,
            )
        return PreviewObject(
            leaves=True,
            reason=None,
            detail=None,
            body=outbound.body,
            entities={str(kind): count for kind, count in outbound.entities.items()},
            policy=outbound.policy,
            **languages,
        )

    return routes
