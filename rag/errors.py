"""What retrieval may raise. Knows nothing of HTTP; messages are shown to clients."""

from __future__ import annotations


class RagError(Exception):
    """A message that may be shown: it holds no text of a document or a query.

    RagError
    ├── NotThere             no such file, store or batch, or not for this reader: told alike
    ├── Refused              a value cannot be used; `param` names it
    ├── TooMany              a store or a batch is full
    ├── Ambiguous            several stores have the name that was asked for
    ├── EmbedderMismatch     the store's vectors are another embedder's
    └── IndexUnavailable     the vector index does not answer now

    FileUnreadable (of one file; the reason goes into its status)
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class NotThere(RagError):
    """No such file, store, batch or file in a store; or the reader may not know of it."""


class Refused(RagError):
    """A value cannot be used; `param` names it."""


class TooMany(RagError):
    """A store or a batch takes no more files."""


class Ambiguous(RagError):
    """Several stores have the name that was asked for; the message has their ids."""


class EmbedderMismatch(RagError):
    """The store was embedded by another model, revision or dimension; the message mends it."""


class IndexUnavailable(RagError):
    """The vector index did not answer in time, or refused."""


class FileUnreadable(Exception):
    """A file has no text for us. `code` is the API's: `unsupported_file` or `invalid_file`.

    The message is for people, such as "The PDF is encrypted; upload it without a password."
    """

    def __init__(self, message: str, *, code: str = "invalid_file") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
