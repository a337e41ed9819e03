"""The common part of routes over files and vector stores: stores, authentication, and errors.

Always the same 404 for what is not there and for what the caller may not know of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Path
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from rag.files.blobs import Blobs
from rag.files.file_batches import FileBatches
from rag.files.files import Files
from rag.pages import Order, PageQuery
from rag.stores.access_lists import Reader
from rag.stores.store_files import StoreFiles
from rag.stores.vector_stores import VectorStores
from serving.config import LimitSettings, ServerSettings
from serving.domain.errors import InvalidRequest, NotFound, RingfenceError
from serving.domain.principal import Principal
from serving.domain.search_call import RetrievedPassages, SearchCall
from serving.gateway.body import Body
from serving.gateway.edge import Edge, principal
from serving.gateway.idempotency import Idempotency
from serving.gateway.streaming import json_response
from serving.retrieval.errors import errors_told as retrieval_told

Answer = dict[str, Any]
Waker = Callable[[], None]
"""Tells the indexing process that there is work. It never waits, and may be lost."""

Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Cursor = Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class DocumentsPipeline(Protocol):
    """The pipeline, as far as these routes need it."""

    async def authenticate(self, authorization: str | None) -> Principal:
        """Who calls. Raises `AccessError`."""
        ...

    async def search(self, call: SearchCall) -> RetrievedPassages:
        """Passages that the caller may see. Raises `RingfenceError`, `EngineError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Files and vector stores of clients, and the waker of the indexing process."""

    files: Files
    stores: VectorStores
    store_files: StoreFiles
    batches: FileBatches
    blobs: Blobs
    wake: Waker


class DocumentsQuery(BaseModel):
    """Base of what may stand behind a path's question mark."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PageParameters(DocumentsQuery):
    """A page of a list, after one of its objects or before it."""

    limit: int = Field(20, ge=1, le=100)
    order: Order = "desc"
    after: Cursor = None
    before: Cursor = None

    @property
    def page(self) -> PageQuery:
        """The page that is asked for."""
        return PageQuery(self.limit, self.order, self.after, self.before)


class DocumentsEdge(Edge):
    """Reads requests about documents, with the error envelope of all others.

    Args:
        gate: says who calls, and searches.
        idempotency: of POSTs with a JSON body.
        server: bounds of a body.
        limits: bounds of what is in it.
    """

    def __init__(
        self,
        gate: DocumentsPipeline,
        idempotency: Idempotency,
        *,
        server: ServerSettings,
        limits: LimitSettings,
    ) -> None:
        super().__init__(gate.authenticate, idempotency, server=server, limits=limits)
        self.gate = gate

    async def answer(
        self,
        request: Request,
        kind: type[Body],
        make: Callable[[Body], Awaitable[Answer | Response]],
    ) -> Response:
        """Answer with what `make` returns, once per `Idempotency-Key`. Raises as `once` does."""

        async def made(wire: Body) -> Response:
            with errors_told():
                answer = await make(wire)
            return answer if isinstance(answer, Response) else json_response(answer)

        return await self.once(request, kind, made)


def reader(request: Request) -> Reader:
    """Return the reader on whose behalf a request runs; only after `Edge.admit`."""
    known = principal(request)
    return Reader.of(known.tenant, sorted(known.groups), known.user)


class DocumentsRoute(APIRoute):
    """A route whose errors get the same envelope as all others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler as FastAPI makes it, with other layers' errors translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            with errors_told():
                return await handle(request)

        return translated


@contextmanager
def errors_told() -> Iterator[None]:
    """Errors of lower layers become those of the API."""
    try:
        with retrieval_told():
            yield
    except RequestValidationError as error:
        raise _misread(error) from None


def _misread(error: RequestValidationError) -> RingfenceError:
    """The first problem with a path or its query; an id that can be none names nothing."""
    row = error.errors()[0]
    where, param = row["loc"][0], str(row["loc"][-1])
    if where == "path":
        return NotFound("There is nothing of that id.")
    message = row["msg"]
    for subject in ("Input should", "String should"):
        message = message.replace(subject, "must")
    return InvalidRequest(f"{param}: {message}", param=param)
