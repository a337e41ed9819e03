"""`/v1/vector_stores`: vector stores, and the search in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from serving.domain.search_call import SearchCall
from serving.gateway.edge import principal
from serving.gateway.openai.documents import (
    Answer,
    Documents,
    DocumentsEdge,
    DocumentsRoute,
    Id,
    PageParameters,
    reader,
)
from serving.gateway.streaming import Deferred, send_json
from serving.gateway.wire.objects import deleted, list_object, results_page, store_object
from serving.gateway.wire.options import PRIVACY, options, privacy
from serving.gateway.wire.vector_stores import StoreChange, StoreCreation, StoreSearch, sizes


def router(edge: DocumentsEdge, documents: Documents) -> APIRouter:
    """Routes over vector stores."""
    routes = APIRouter(
        prefix="/v1/vector_stores", route_class=DocumentsRoute, dependencies=[Depends(edge.admit)]
    )
    _add_stores(routes, edge, documents)
    _add_search(routes, edge)
    return routes


def _add_stores(routes: APIRouter, edge: DocumentsEdge, documents: Documents) -> None:
    stores = documents.stores

    @routes.post("")
    async def create_store(request: Request) -> Response:
        """Create a vector store."""
        who = reader(request)

        async def create(wire: StoreCreation) -> Answer:
            store = await stores.create(
                who,
                name=wire.name or "",
                description=wire.description,
                metadata=wire.metadata or {},
                expires_after_days=None if wire.expires_after is None else wire.expires_after.days,
                access=wire.access,
                embedding_model=wire.embedding_model,
                file_ids=wire.file_ids,
                chunking=sizes(wire.chunking_strategy),
                reuse=wire.reuse,
            )
            documents.wake()
            return store_object(store)

        return await edge.answer(request, StoreCreation, create)

    @routes.get("")
    async def list_stores(request: Request, query: Annotated[PageParameters, Query()]) -> Answer:
        """List the stores that the key may read."""
        return list_object(await stores.list(reader(request), query.page), store_object)

    @routes.get("/{store_id}")
    async def get_store(request: Request, store_id: Id) -> Answer:
        """Describe one store."""
        return store_object(await stores.get(reader(request), store_id))

    @routes.post("/{store_id}")
    async def change_store(request: Request, store_id: Id) -> Response:
        """Change a store. Omitted fields stay."""
        who = reader(request)

        async def change(wire: StoreChange) -> Answer:
            return store_object(await stores.modify(who, store_id, **wire.changes()))

        return await edge.answer(request, StoreChange, change)

    @routes.delete("/{store_id}")
    async def delete_store(request: Request, store_id: Id) -> Answer:
        """Delete a store. Its files stay."""
        await stores.delete(reader(request), store_id)
        documents.wake()
        return deleted("vector_store.deleted", store_id)


def _add_search(routes: APIRouter, edge: DocumentsEdge) -> None:
    @routes.post("/{store_id}/search")
    async def search_store(request: Request, store_id: Id) -> Response:
        """Search a store by meaning and by words."""

        async def search(wire: StoreSearch) -> Response:
            return _results(_call(request, store_id, wire))

        return await edge.answer(request, StoreSearch, search)

    def _results(call: SearchCall) -> Response:
        async def produce(send: Send) -> None:
            found = await edge.gate.search(call)
            headers = [(PRIVACY.encode(), call.privacy.encode())]
            await send_json(send, results_page(found), headers=headers)

        return Deferred(produce)


def _call(request: Request, store_id: str, wire: StoreSearch) -> SearchCall:
    return SearchCall(
        request_id=request.scope["request_id"],
        principal=principal(request),
        store_ids=[store_id],
        queries=wire.queries(),
        limit=wire.max_num_results,
        filters=wire.filter(),
        ranking=wire.ranking(),
        options=options(request),
        privacy=privacy(request, principal(request), wire.privacy),
    )
