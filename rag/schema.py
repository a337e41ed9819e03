"""The tables of files and vector stores. Every change needs a migration; a test compares the two.

Times are Unix seconds, as in the API. SQL is the source of truth: vectors and full-text rows can
be rebuilt from it, never the other way round.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BIG = BigInteger().with_variant(Integer, "sqlite")  # SQLite increments only keys of type INTEGER.


class Base(DeclarativeBase):
    """The tables of one database. Constraints have names, so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class File(Base):
    """An uploaded file. Its bytes are in the blob store, under its tenant and id."""

    __tablename__ = "files"
    __table_args__ = (
        Index("ix_files_tenant_created_at", "tenant", "created_at"),
        CheckConstraint("purpose IN ('user_data', 'assistants', 'batch')", name="purpose"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"))
    filename: Mapped[str] = mapped_column(String(512))
    purpose: Mapped[str] = mapped_column(String(16))
    media_type: Mapped[str] = mapped_column(String(128))
    """The type is detected from the content; the client's claim is ignored."""

    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    privacy: Mapped[str] = mapped_column(String(16))
    """The loosest privacy class of a request that may contain a passage of this file."""

    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)


class FileAccess(Base):
    """One entry of a file's access list: `tenant`, `group:<name>` or `user:<name>`."""

    __tablename__ = "file_access"

    file_id: Mapped[str] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    entry: Mapped[str] = mapped_column(String(80), primary_key=True)


class VectorStore(Base):
    """A vector store. `number` names its full-text table and is never reused."""

    __tablename__ = "vector_stores"
    __table_args__ = (
        Index("ix_vector_stores_tenant_created_at", "tenant", "created_at"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(256))
    description: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, str]] = mapped_column(JSON)
    """The client's `metadata` in the API: up to 16 pairs."""

    created_at: Mapped[int] = mapped_column(BigInteger)
    last_active_at: Mapped[int] = mapped_column(BigInteger)
    expires_after_days: Mapped[int | None] = mapped_column(Integer)


class VectorStoreAccess(Base):
    """One entry of a vector store's access list, in the form of `FileAccess.entry`."""

    __tablename__ = "vector_store_access"

    store_id: Mapped[str] = mapped_column(
        ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True
    )
    entry: Mapped[str] = mapped_column(String(80), primary_key=True)


class StoreFile(Base):
    """A file in a vector store.

    `version` names the published chunks and their vectors; it is None if none are published.
    The process that holds the lease indexes the file; another may take it once the lease expires.
    """

    __tablename__ = "store_files"
    __table_args__ = (
        UniqueConstraint("store_id", "file_id"),
        Index("ix_store_files_file_id", "file_id"),
        Index("ix_store_files_status_lease_until", "status", "lease_until"),
        CheckConstraint(
            "status IN ('in_progress', 'completed', 'cancelled', 'failed')", name="status"
        ),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id", ondelete="CASCADE"))
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16))
    error_code: Mapped[str | None] = mapped_column(String(32))
    error_message: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    strategy: Mapped[str] = mapped_column(String(8))
    """The strategy is `auto` or `static`."""

    chunk_tokens: Mapped[int] = mapped_column(Integer)
    overlap_tokens: Mapped[int] = mapped_column(Integer)
    version: Mapped[str | None] = mapped_column(String(40))
    usage_bytes: Mapped[int] = mapped_column(BigInteger)
    tries: Mapped[int] = mapped_column(Integer)
    lease_owner: Mapped[str | None] = mapped_column(String(40))
    lease_until: Mapped[float] = mapped_column(Float)


class FileBatch(Base):
    """Files that were put into a vector store by one request."""

    __tablename__ = "file_batches"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    store_id: Mapped[str] = mapped_column(
        ForeignKey("vector_stores.id", ondelete="CASCADE"), index=True
    )
    created_at: Mapped[int] = mapped_column(BigInteger)
    cancelled: Mapped[bool] = mapped_column()


class BatchFile(Base):
    """One file of a batch. Its status is that of the file in the store."""

    __tablename__ = "batch_files"

    batch_id: Mapped[str] = mapped_column(
        ForeignKey("file_batches.id", ondelete="CASCADE"), primary_key=True
    )
    store_file_id: Mapped[int] = mapped_column(
        ForeignKey("store_files.id", ondelete="CASCADE"), primary_key=True
    )


class ChunkRow(Base):
    """A piece of a file's text. `key` is `<version>:<position>`; vector ids begin with it."""

    __tablename__ = "chunks"
    __table_args__ = (
        Index("ix_chunks_store_file_id", "store_file_id"),
        Index("ix_chunks_version", "version"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(56), unique=True)
    store_number: Mapped[int] = mapped_column(BIG, index=True)
    store_file_id: Mapped[int] = mapped_column(ForeignKey("store_files.id", ondelete="CASCADE"))
    version: Mapped[str] = mapped_column(String(40))
    position: Mapped[int] = mapped_column(Integer)
    page: Mapped[int | None] = mapped_column(Integer)
    """The page or slide on which the chunk begins, counted from 1."""

    tokens: Mapped[int] = mapped_column(Integer)
    text: Mapped[str] = mapped_column(Text)


class IndexGeneration(Base):
    """The vectors that one embedder made for a store, and a fingerprint of that embedder.

    A store has one `active` generation, which is searched. It may have one that is `building`, and
    one that is `previous`, which is kept for a rollback.
    """

    __tablename__ = "index_generations"
    __table_args__ = (
        Index("ix_index_generations_store_id_state", "store_id", "state"),
        CheckConstraint("state IN ('active', 'building', 'previous')", name="state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(16))
    collection: Mapped[str] = mapped_column(String(128), unique=True)
    model: Mapped[str] = mapped_column(String(128))
    revision: Mapped[str] = mapped_column(String(80))
    dimension: Mapped[int] = mapped_column(Integer)
    canaries: Mapped[bytes] = mapped_column(LargeBinary)
    """Vectors of fixed texts, `(n, dimension)` float32, row-major."""

    created_at: Mapped[int] = mapped_column(BigInteger)
    reembedded_to: Mapped[int] = mapped_column(BIG, server_default="0", default=0)
    """Progress of a `building` generation: vectors exist up to this `store_files.id`."""


class IndexIntent(Base):
    """Work outside SQL, recorded before it begins so that it can be completed after a crash.

    `write`: vectors of a version are being written, and are erased unless it is published.
    `erase`: vectors of a version are to be erased. `drop`: a collection is to be dropped.
    `blob`: a file's bytes are to be removed.
    """

    __tablename__ = "index_intents"

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(8))
    tenant: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    """The subject is a version, a collection or a file id."""

    collection: Mapped[str | None] = mapped_column(String(128))
    """The collection of a `write` or `erase`."""

    until: Mapped[float] = mapped_column(Float)
    """Unix seconds until which only the process that recorded the intent acts on it."""


class DriftBaseline(Base):
    """Statistics of a generation's documents, with which queries are compared."""

    __tablename__ = "drift_baselines"

    generation_id: Mapped[str] = mapped_column(
        ForeignKey("index_generations.id", ondelete="CASCADE"), primary_key=True
    )
    created_at: Mapped[int] = mapped_column(BigInteger)
    chunks: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class DriftDay(Base):
    """Sums over the searches of one day. They contain neither queries nor their vectors."""

    __tablename__ = "drift_days"

    generation_id: Mapped[str] = mapped_column(
        ForeignKey("index_generations.id", ondelete="CASCADE"), primary_key=True
    )
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    writer: Mapped[str] = mapped_column(String(40), primary_key=True)
    """The process that counted. Each process writes rows of its own."""

    searches: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class DriftReportRow(Base):
    """A report that was made on schedule."""

    __tablename__ = "drift_reports"
    __table_args__ = (Index("ix_drift_reports_store_id_created_at", "store_id", "created_at"),)

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("vector_stores.id", ondelete="CASCADE"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    alerts: Mapped[list[str]] = mapped_column(JSON)
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
