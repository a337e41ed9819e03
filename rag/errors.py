"""Errors that retrieval raises. Knows nothing of HTTP; clients see the messages."""

from __future__ import annotations


class RagError(Exception):
    """An error whose message may be shown: it contains no text of a document or a query.

    RagError
    ├── NotThere             the object does not exist, or the reader may not see it
    ├── Refused              a value cannot be used; `param` names it
    ├── TooMany              a store or a batch is full
    ├── Ambiguous            several stores have the requested name
    ├── EmbedderMismatch     another embedder made the store's vectors
    └── IndexUnavailable     the vector index does not answer

    FileUnreadable (concerns one file; the reason becomes part of its status)
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class NotThere(RagError):
    """The file, store or batch does not exist, or the reader may not see it."""


class Refused(RagError):
    """A value cannot be used; `param` names the field."""


class TooMany(RagError):
    """A store or a batch cannot take more files."""


class Ambiguous(RagError):
    """Several stores have the requested name; the message lists their ids."""


class EmbedderMismatch(RagError):
    """Another model, revision or dimension made the store's vectors; the message has the remedy."""


class IndexUnavailable(RagError):
    """The vector index did not answer in time, or refused the call."""


class FileUnreadable(Exception):
    """No text can be read from a file. `code` is the API's: `unsupported_file` or `invalid_file`.

    The message is written for users, such as "The PDF is encrypted; upload it without a password."
    """

    def __init__(self, message: str, *, code: str = "invalid_file") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
