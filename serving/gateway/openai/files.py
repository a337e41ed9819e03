"""`/v1/files`: uploads, which go straight to the blob store, and their records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rag.errors import RagError
from rag.files.files import FileRecord
from rag.pages import Order, PageQuery
from rag.parsing.media_types import media_type
from serving.config.retrieval import FileSettings
from serving.domain.errors import RingfenceError, StateUnavailable
from serving.domain.privacy_class import strictest
from serving.gateway.edge import principal
from serving.gateway.openai.documents import (
    Answer,
    Cursor,
    Documents,
    DocumentsEdge,
    DocumentsQuery,
    DocumentsRoute,
    Id,
    reader,
)
from serving.gateway.openai.uploads import Upload
from serving.gateway.wire.file_fields import FIELDS, FileFields, Purpose, attachment
from serving.gateway.wire.objects import deleted, file_object, list_object
from serving.gateway.wire.options import header_privacy
from serving.gateway.wire.own_fields import refuse_names
from serving.gateway.wire.vector_stores import FileChange


class FilesQuery(DocumentsQuery):
    """A page of the files."""

    limit: int = Field(10_000, ge=1, le=10_000)
    order: Order = "desc"
    after: Cursor = None
    purpose: Purpose | None = None


def router(edge: DocumentsEdge, documents: Documents, *, settings: FileSettings) -> APIRouter:
    """Routes over files."""
    routes = APIRouter(
        prefix="/v1/files", route_class=DocumentsRoute, dependencies=[Depends(edge.admit)]
    )
    files = documents.files

    @routes.post("")
    async def upload_file(request: Request) -> Answer:
        """Upload a file as a form."""
        upload = Upload(request, FIELDS, settings=settings)
        return file_object(await _store(edge, documents, request, upload))

    @routes.get("")
    async def list_files(request: Request, query: Annotated[FilesQuery, Query()]) -> Answer:
        """List the files that the key may read."""
        asked = PageQuery(query.limit, query.order, query.after)
        page = await files.list(reader(request), asked, purpose=query.purpose)
        return list_object(page, file_object)

    @routes.get("/{file_id}")
    async def get_file(request: Request, file_id: Id) -> Answer:
        """Describe one file."""
        return file_object(await files.get(reader(request), file_id))

    @routes.post("/{file_id}")
    async def change_file(request: Request, file_id: Id) -> Response:
        """Change who may read a file, or its class. Omitted fields stay."""
        who = reader(request)

        async def change(wire: FileChange) -> Answer:
            return file_object(
                await files.modify(who, file_id, access=wire.access, privacy=wire.privacy)
            )

        return await edge.answer(request, FileChange, change)

    @routes.delete("/{file_id}")
    async def delete_file(request: Request, file_id: Id) -> Answer:
        """Delete a file, and take it out of every store."""
        await files.delete(reader(request), file_id)
        documents.wake()
        return deleted("file", file_id)

    @routes.get("/{file_id}/content")
    async def get_content(request: Request, file_id: Id) -> Response:
        """Return the bytes of a file."""
        file = await files.get(reader(request), file_id)
        return await _content(file, documents.blobs.read(file.tenant, file.id))

    return routes


async def _store(
    edge: DocumentsEdge, documents: Documents, request: Request, upload: Upload
) -> FileRecord:
    """Keep an upload, whole or not at all."""
    tenant, file_id = principal(request).tenant, f"file-{uuid4().hex}"
    asked = header_privacy(request)
    try:
        written = await documents.blobs.write(tenant, file_id, upload.pieces())
    except OSError:  # A full disk; its text names a path of ours.
        raise StateUnavailable("The file cannot be stored now. Try again later.") from None
    try:
        await edge.admit(request)  # The upload may have taken long.
        refuse_names(upload.ignored, FIELDS)
        fields = FileFields.read(upload.fields)
        return await documents.files.create(
            reader(request),
            file_id=file_id,
            filename=upload.filename,
            purpose=fields.purpose,
            media_type=media_type(upload.head, upload.filename),
            size=written.size,
            sha256=written.sha256,
            privacy=strictest(fields.privacy, asked),
            access=fields.access,
            expires_after_s=fields.expires_after_s,
        )
    except (RagError, RingfenceError):  # After other errors the row may be there, or a sweep helps.
        await documents.blobs.delete(tenant, file_id)
        raise


async def _content(file: FileRecord, pieces: AsyncGenerator[bytes]) -> Response:
    """The bytes of a file. The first ones are awaited, so that a failure has a status."""
    try:
        first = await anext(pieces, b"")
    except OSError:  # Its text may name a path of ours.
        raise StateUnavailable("The file cannot be read now. Try again later.") from None

    async def each() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    headers = {
        "content-disposition": attachment(file.filename),
        "content-length": str(file.bytes),
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    return StreamingResponse(each(), media_type=file.media_type, headers=headers)
