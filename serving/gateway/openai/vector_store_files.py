"""`/v1/vector_stores/{id}/files` and `/file_batches`: the files of a vector store."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from serving.gateway.openai.documents import (
    Answer,
    Documents,
    DocumentsEdge,
    DocumentsQuery,
    DocumentsRoute,
    Id,
    PageParameters,
    reader,
)
from serving.gateway.wire.objects import (
    batch_object,
    content_page,
    deleted,
    list_object,
    store_file_object,
)
from serving.gateway.wire.vector_stores import (
    AttributesChange,
    BatchCreation,
    FileAttachment,
    sizes,
)


class StoreFilesQuery(PageParameters):
    """A page of the files of a store or a batch."""

    filter: Literal["in_progress", "completed", "failed", "cancelled"] | None = None


class DetachQuery(DocumentsQuery):
    """Options of taking a file out of a store. `delete_unused` is ours."""

    delete_unused: bool = Field(
        default=False, description="Also delete the file, if no other store has it."
    )


FilesPage = Annotated[StoreFilesQuery, Query()]


def router(edge: DocumentsEdge, documents: Documents) -> APIRouter:
    """Routes over the files in vector stores."""
    routes = APIRouter(
        prefix="/v1/vector_stores/{store_id}",
        route_class=DocumentsRoute,
        dependencies=[Depends(edge.admit)],
    )
    _add_files(routes, edge, documents)
    _add_batches(routes, edge, documents)
    return routes


def _add_files(routes: APIRouter, edge: DocumentsEdge, documents: Documents) -> None:
    files = documents.store_files

    @routes.post("/files")
    async def attach_file(request: Request, store_id: Id) -> Response:
        """Put a file into a store. It is indexed in the background."""
        who = reader(request)

        async def attach(wire: FileAttachment) -> Answer:
            file = await files.attach(
                who,
                store_id,
                wire.file_id,
                attributes=wire.attributes or {},
                chunking=sizes(wire.chunking_strategy),
            )
            documents.wake()
            return store_file_object(file)

        return await edge.answer(request, FileAttachment, attach)

    @routes.get("/files")
    async def list_files(request: Request, store_id: Id, query: FilesPage) -> Answer:
        """List the files of a store."""
        page = await files.list(reader(request), store_id, query.page, status=query.filter)
        return list_object(page, store_file_object)

    @routes.get("/files/{file_id}")
    async def get_file(request: Request, store_id: Id, file_id: Id) -> Answer:
        """Describe a file of a store."""
        return store_file_object(await files.get(reader(request), store_id, file_id))

    @routes.post("/files/{file_id}")
    async def change_file(request: Request, store_id: Id, file_id: Id) -> Response:
        """Replace the attributes of a file of a store."""
        who = reader(request)

        async def change(wire: AttributesChange) -> Answer:
            attributes = wire.attributes or {}
            return store_file_object(
                await files.set_attributes(who, store_id, file_id, attributes=attributes)
            )

        return await edge.answer(request, AttributesChange, change)

    @routes.delete("/files/{file_id}")
    async def detach_file(
        request: Request, store_id: Id, file_id: Id, query: Annotated[DetachQuery, Query()]
    ) -> Answer:
        """Take a file out of a store."""
        await files.detach(reader(request), store_id, file_id, delete_unused=query.delete_unused)
        documents.wake()
        return deleted("vector_store.file.deleted", file_id)

    @routes.get("/files/{file_id}/content")
    async def get_content(request: Request, store_id: Id, file_id: Id) -> Answer:
        """Return the text of a file of a store, as it was cut into chunks."""
        return content_page(await files.content(reader(request), store_id, file_id))


def _add_batches(routes: APIRouter, edge: DocumentsEdge, documents: Documents) -> None:
    batches = documents.batches

    @routes.post("/file_batches")
    async def create_batch(request: Request, store_id: Id) -> Response:
        """Put several files into a store."""
        who = reader(request)

        async def create(wire: BatchCreation) -> Answer:
            files = [
                (file.file_id, file.attributes or {}, sizes(file.chunking_strategy))
                for file in wire.attachments()
            ]
            batch = await batches.create(who, store_id, files)
            documents.wake()
            return batch_object(batch)

        return await edge.answer(request, BatchCreation, create)

    @routes.get("/file_batches/{batch_id}")
    async def get_batch(request: Request, store_id: Id, batch_id: Id) -> Answer:
        """Describe a batch."""
        return batch_object(await batches.get(reader(request), store_id, batch_id))

    @routes.post("/file_batches/{batch_id}/cancel")
    async def cancel_batch(request: Request, store_id: Id, batch_id: Id) -> Answer:
        """Give up the files of a batch that are not indexed yet."""
        return batch_object(await batches.cancel(reader(request), store_id, batch_id))

    @routes.get("/file_batches/{batch_id}/files")
    async def list_batch_files(
        request: Request, store_id: Id, batch_id: Id, query: FilesPage
    ) -> Answer:
        """List the files of a batch."""
        page = await batches.list(
            reader(request), store_id, batch_id, query.page, status=query.filter
        )
        return list_object(page, store_file_object)
