"""`/admin/v1/vector_stores`: stores of all tenants, their embedders, re-embedding, drift, check."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from serving.gateway.admin.administration import AdminEdge, AdminRoute
from serving.gateway.admin.objects import AdminObject
from serving.gateway.admin.wire import ModelName
from serving.gateway.wire.conversation import Wire
from serving.knowledge.curation import Curator, Phase, ReembeddingFacts

StoreId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class StoreObject(AdminObject):
    """A vector store."""

    object: Literal["vector_store"] = "vector_store"
    id: str
    tenant: str
    name: str
    generation: str | None
    model: str | None
    mismatch: str | None = Field(description="Why it is refused, and the command that mends it.")


class StoreList(AdminObject):
    """A list of all vector stores."""

    object: Literal["list"] = "list"
    data: list[StoreObject]


class ReembeddingObject(AdminObject):
    """The re-embedding of a vector store."""

    object: Literal["vector_store.reembedding"] = "vector_store.reembedding"
    store: str
    phase: Phase
    model: str | None
    done: int = Field(description="Files whose new vectors are there.")
    total: int
    recall: dict[str, float | int | None] | None
    error: str | None


class DriftObject(AdminObject):
    """A report of drift."""

    model_config = ConfigDict(frozen=True, extra="allow")

    object: Literal["vector_store.drift"] = "vector_store.drift"
    store_id: str
    alerts: list[str]


class CheckObject(AdminObject):
    """A difference between the indexes and the database."""

    object: Literal["vector_store.check"] = "vector_store.check"
    findings: list[str]


class ReembedBody(Wire):
    """A new embedder for a vector store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName
    force: bool = False


class EmptyBody(Wire):
    """Nothing needs to be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def router(curator: Curator, edge: AdminEdge) -> APIRouter:
    """Build the routes over the curator of the stores."""
    routes = APIRouter(prefix="/vector_stores", tags=["Vector stores"], route_class=AdminRoute)

    @routes.get("", summary="List the vector stores of all tenants")
    async def list_vector_stores() -> StoreList:
        """List all vector stores, with the embedder of each, and whether it is served."""
        found = await curator.stores()
        return StoreList(
            data=[
                StoreObject(
                    id=store.id, tenant=store.tenant, name=store.name, model=store.model,
                    generation=store.generation, mismatch=store.mismatch,
                )
                for store in found
            ]
        )  # fmt: skip

    @routes.get("/check", summary="Check that the indexes agree with the database")
    async def check_vector_stores() -> CheckObject:
        """Findings; none where all agree."""
        return CheckObject(findings=list(await curator.check()))

    @routes.get("/{store_id}/reembed", summary="Show how far a re-embedding is")
    async def show_reembedding(store_id: StoreId) -> ReembeddingObject:
        """Return the progress of the running re-embedding, or of the last one since the start."""
        return _shown(store_id, await curator.reembedding(store_id))

    @routes.post(
        "/{store_id}/reembed", summary="Re-embed a vector store", response_model=ReembeddingObject
    )
    async def reembed(store_id: StoreId, request: Request) -> Response:
        """Goes on by itself; searches are answered from the old vectors until it ends."""

        async def begin(wire: ReembedBody) -> ReembeddingObject:
            facts = await curator.reembed(store_id, wire.model, force=wire.force)
            return _shown(store_id, facts)

        return await edge.answer(request, ReembedBody, begin)

    @routes.post(
        "/{store_id}/rollback", summary="Go back to the vectors of before",
        response_model=ReembeddingObject,
    )  # fmt: skip
    async def roll_back(store_id: StoreId, request: Request) -> Response:
        """They are brought up to date first, and searched then."""

        async def begin(_: EmptyBody) -> ReembeddingObject:
            return _shown(store_id, await curator.rollback(store_id))

        return await edge.answer(request, EmptyBody, begin)

    @routes.get("/{store_id}/drift", summary="Report drift")
    async def report_drift(store_id: StoreId) -> DriftObject:
        """Report how far embedder, queries and documents have moved."""
        return DriftObject(**await curator.drift(store_id))

    return routes


def _shown(store_id: str, facts: ReembeddingFacts) -> ReembeddingObject:
    return ReembeddingObject(
        store=store_id, phase=facts.phase, model=facts.model, done=facts.done, total=facts.total,
        recall=facts.recall, error=facts.error,
    )  # fmt: skip
