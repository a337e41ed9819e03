"""The routes over files and vector stores."""

from __future__ import annotations

from fastapi import APIRouter

from serving.config import LimitSettings, ServerSettings
from serving.config.retrieval import FileSettings
from serving.gateway.idempotency import Idempotency
from serving.gateway.openai import files, vector_store_files, vector_stores
from serving.gateway.openai.documents import Documents, DocumentsEdge, DocumentsPipeline


def router(
    gate: DocumentsPipeline,
    idempotency: Idempotency,
    documents: Documents,
    *,
    server: ServerSettings,
    limits: LimitSettings,
    uploads: FileSettings,
) -> APIRouter:
    """All routes over files and vector stores, for callers that the gate lets in."""
    edge = DocumentsEdge(gate, idempotency, server=server, limits=limits)
    routes = APIRouter()
    routes.include_router(files.router(edge, documents, settings=uploads))
    routes.include_router(vector_stores.router(edge, documents))
    routes.include_router(vector_store_files.router(edge, documents))
    return routes
