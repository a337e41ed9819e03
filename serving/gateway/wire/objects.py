"""Objects of the API for files and vector stores: OpenAI's fields and ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rag.files.file_batches import BatchRecord
from rag.files.files import FileRecord
from rag.pages import Page
from rag.search.passages import Passage
from rag.stores.store_files import StoreFileRecord
from rag.stores.store_records import FileCounts, StoreRecord
from serving.domain.search_call import RetrievedPassages

T = TypeVar("T")
Shown = dict[str, Any]


def file_object(file: FileRecord) -> Shown:
    """A file; `sha256`, `access` and `privacy` are ours."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "sha256": file.sha256,
        "access": list(file.access),
        "privacy": file.privacy,
    }


def store_object(store: StoreRecord) -> Shown:
    """A vector store; `access` is ours."""
    days = store.expires_after_days
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.name,
        "description": store.description,
        "usage_bytes": store.usage_bytes,
        "file_counts": _counts(store.counts),
        "status": store.status,
        "expires_after": None if days is None else {"anchor": "last_active_at", "days": days},
        "expires_at": store.expires_at,
        "last_active_at": store.last_active_at,
        "metadata": dict(store.metadata),
        "access": list(store.access),
    }


def store_file_object(file: StoreFileRecord) -> Shown:
    """A file in a vector store."""
    error = None
    if file.error_code is not None:
        error = {"code": file.error_code, "message": file.error_message}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "usage_bytes": file.usage_bytes,
        "created_at": file.created_at,
        "vector_store_id": file.store_id,
        "status": file.status,
        "last_error": error,
        "chunking_strategy": {
            "type": "static",
            "static": {
                "max_chunk_size_tokens": file.chunk_tokens,
                "chunk_overlap_tokens": file.overlap_tokens,
            },
        },
        "attributes": dict(file.attributes),
    }


def batch_object(batch: BatchRecord) -> Shown:
    """Files that were attached by one request."""
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.store_id,
        "status": batch.status,
        "file_counts": _counts(batch.counts),
    }


def content_page(texts: Sequence[str]) -> Shown:
    """The text of a file in a store, as it was cut into chunks."""
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text} for text in texts],
        "has_more": False,
        "next_page": None,
    }


def results_page(found: RetrievedPassages) -> Shown:
    """Passages that were found; `page` and `position` are ours."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": list(found.queries),
        "data": [_result(passage) for passage in found.passages],
        "has_more": False,
        "next_page": None,
    }


def list_object(page: Page[T], show: Callable[[T], Shown]) -> Shown:
    """A page of a list, with the cursors to its neighbours."""
    data = [show(row) for row in page.rows]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def deleted(kind: str, gone: str) -> Shown:
    """Return the object that confirms a deletion."""
    return {"id": gone, "object": kind, "deleted": True}


def _result(passage: Passage) -> Shown:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.score,
        "attributes": dict(passage.attributes),
        "content": [{"type": "text", "text": passage.text}],
        "page": passage.page,
        "position": passage.position,
    }


def _counts(counts: FileCounts) -> Shown:
    return {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "total": counts.total,
    }
