"""All routes over files and vector stores."""

from __future__ import annotations

from fastapi import APIRouter

from serving.config import LimitSettings, ServerSettings
from serving.config.retrieval import FileSettings
from serving.gateway.idempotency import Idempotency
from serving.gateway.openai import files, vector_store_files, vector_stores
from serving.gateway.openai.library import Gate, Library, LibraryEdge


def router(
    gate: Gate,
    idempotency: Idempotency,
    library: Library,
    *,
    server: ServerSettings,
    limits: LimitSettings,
    uploads: FileSettings,
) -> APIRouter:
    """Routes over a library, for whom the gate lets in."""
    edge = LibraryEdge(gate, idempotency, server=server, limits=limits)
    routes = APIRouter()
    routes.include_router(files.router(edge, library, settings=uploads))
    routes.include_router(vector_stores.router(edge, library))
    routes.include_router(vector_store_files.router(edge, library))
    return routes
