"""Errors of retrieval as the API tells them; the one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rag.errors import Ambiguous, EmbedderMismatch, IndexUnavailable, NotThere, RagError
from serving.domain.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RingfenceError,
    StateUnavailable,
)
from serving.storage.errors import DatabaseUnavailable


@contextmanager
def errors_told() -> Iterator[None]:
    """Errors of retrieval, and of the database beneath it, become those of the API."""
    try:
        yield
    except RagError as error:
        raise told(error) from None
    except DatabaseUnavailable:
        raise StateUnavailable("The database does not answer now. Try again soon.") from None


def told(error: RagError) -> RingfenceError:
    """An error of retrieval, with its message and field."""
    if isinstance(error, NotThere):
        return NotFound(error.message, param=error.param)
    if isinstance(error, Ambiguous | EmbedderMismatch):
        return Conflict(error.message, param=error.param)
    if isinstance(error, IndexUnavailable):
        return StateUnavailable(error.message, param=error.param)
    return InvalidRequest(error.message, param=error.param)
