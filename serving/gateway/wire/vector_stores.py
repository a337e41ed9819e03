"""Bodies of the vector store API: OpenAI's, with our extensions. Types are strict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rag.stores.access_lists import ENTRY, MAX_ENTRIES
from serving.domain.privacy_class import PrivacyClass
from serving.gateway.wire.conversation import Quick, Wire
from serving.gateway.wire.search import Id, SearchOptions

MAX_BATCH = 2000
MAX_STORE_FILES = 500
"""Most files that a store can be created with."""

MAX_PAIRS = 16
MAX_QUERIES = 16
MAX_QUERY = 8192
"""Longest question, in characters."""


def _entry(entry: str) -> str:
    if not ENTRY.fullmatch(entry):
        raise ValueError("must be tenant, group:<name> or user:<name>")
    return entry


def _size(low: int, high: int) -> StringConstraints:
    """Check the length of a text, and that it has no NUL, which no database takes."""
    return StringConstraints(strict=True, min_length=low, max_length=high, pattern=r"^[^\x00]*$")


PairName = Annotated[str, _size(1, 64)]
PairText = Annotated[str, _size(0, 512)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Metadata = Annotated[dict[PairName, PairText], Field(max_length=MAX_PAIRS)]
Attributes = Annotated[dict[PairName, bool | int | Finite | PairText], Field(max_length=MAX_PAIRS)]
Access = Annotated[
    list[Annotated[str, StringConstraints(strict=True), AfterValidator(_entry)]],
    Field(min_length=1, max_length=MAX_ENTRIES),
]
Name = Annotated[str, _size(0, 256)]
Description = Annotated[str, _size(0, 4096)]
Query = Annotated[str, _size(1, MAX_QUERY)]


class FileChange(Wire):
    """`POST /v1/files/{id}`: who may read a file, and its class. Omitted fields stay."""

    access: Access | None = Field(None, description="Who may read the file from now on.")
    privacy: PrivacyClass | None = Field(
        None, description="The loosest class of a request that a passage of the file is put into."
    )


class AutoChunking(Wire):
    """800 tokens, 400 of them shared with the chunk before."""

    type: Literal["auto"]


class ChunkSize(Wire):
    """The size of chunks, and their overlap."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _not_more_than_half(self) -> ChunkSize:
        if self.chunk_overlap_tokens > self.max_chunk_size_tokens // 2:
            raise ValueError("chunk_overlap_tokens must be at most half of max_chunk_size_tokens")
        return self


class StaticChunking(Wire):
    """Sizes of the client's."""

    type: Literal["static"]
    static: ChunkSize


Chunking = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


def sizes(chunking: AutoChunking | StaticChunking | None) -> tuple[int, int] | None:
    """Tokens of a chunk and of its overlap; None for the defaults."""
    if not isinstance(chunking, StaticChunking):
        return None
    return chunking.static.max_chunk_size_tokens, chunking.static.chunk_overlap_tokens


class StoreExpiry(Wire):
    """When an unused store expires."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class StoreCreation(Wire):
    """`POST /v1/vector_stores`. With `reuse`, the store of this name if there is one."""

    name: Name | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    expires_after: StoreExpiry | None = None
    file_ids: Annotated[list[Id], Quick, Field(max_length=MAX_STORE_FILES)] = Field([])
    chunking_strategy: Chunking | None = None
    access: Access | None = Field(
        None, description="Who may read the store. Default: the narrowest list the caller is on."
    )
    embedding_model: Annotated[str, _size(1, 128)] | None = Field(
        None, description="The served model that embeds its files and questions."
    )
    reuse: bool = Field(
        default=False,
        description="Return the store of this name that the caller can read, if there is one.",
    )

    @model_validator(mode="after")
    def _reuse_by_name(self) -> StoreCreation:
        if self.reuse and not self.name:
            raise ValueError("reuse takes the name of a store")
        if self.reuse and self.file_ids:
            raise ValueError("reuse takes no file_ids; attach them afterwards")
        return self


class StoreChange(Wire):
    """`POST /v1/vector_stores/{id}`. Omitted fields stay; null clears optional ones."""

    name: Name | None = None
    metadata: Metadata | None = None
    expires_after: StoreExpiry | None = None
    access: Access | None = Field(None, description="Who may read the store from now on.")

    def changes(self) -> dict[str, Any]:
        """The fields that were sent, as they are kept."""
        sent: dict[str, Any] = {}
        if self.name is not None:
            sent["name"] = self.name
        if "metadata" in self.model_fields_set:
            sent["metadata"] = self.metadata or {}
        if "expires_after" in self.model_fields_set:
            sent["expires_after_days"] = self.expires_after and self.expires_after.days
        if self.access is not None:
            sent["access"] = self.access
        return sent


class FileAttachment(Wire):
    """`POST /v1/vector_stores/{id}/files`, or one file of a batch."""

    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class AttributesChange(Wire):
    """`POST /v1/vector_stores/{id}/files/{id}`. Null clears them."""

    attributes: Attributes | None


class BatchCreation(Wire):
    """`POST /v1/vector_stores/{id}/file_batches`: ids, or files with attributes of their own."""

    file_ids: Annotated[list[Id], Quick, Field(min_length=1, max_length=MAX_BATCH)] | None = None
    files: (
        Annotated[list[FileAttachment], Quick, Field(min_length=1, max_length=MAX_BATCH)] | None
    ) = None
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> BatchCreation:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give either file_ids or files")
        return self

    def attachments(self) -> list[FileAttachment]:
        """The files, each with its own options; options for all do not apply to `files`."""
        if self.files is not None:
            return self.files
        return [
            FileAttachment(
                file_id=file_id,
                attributes=self.attributes,
                chunking_strategy=self.chunking_strategy,
            )
            for file_id in self.file_ids or ()
        ]


class StoreSearch(SearchOptions):
    """`POST /v1/vector_stores/{id}/search`. `rewrite_query` is taken, and nothing is rewritten."""

    query: Query | Annotated[list[Query], Field(min_length=1, max_length=MAX_QUERIES)]
    rewrite_query: bool = False
    privacy: PrivacyClass | None = Field(
        None, description="Accepted and checked. A search never leaves, whatever its class."
    )

    def queries(self) -> list[str]:
        """The questions."""
        return [self.query] if isinstance(self.query, str) else self.query
