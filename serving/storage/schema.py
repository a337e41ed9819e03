"""The tables. Changed together with a migration; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from rag.schema import Base

METADATA = Base.metadata
"""All tables: those here, and those of retrieval."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC; SQLite has no zones of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time: it would be read in the reader's zone."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give every time its zone back."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class TenantRow(Base):
    """The owner of keys, files and usage."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    weight: Mapped[float] = mapped_column(Float, server_default=text("1"), default=1.0)
    """Its share of an engine that several tenants want at once."""


class ApiKey(Base):
    """An API key without its text: `digest` is HMAC-SHA256 of that under the server's secret.

    A key is revoked from `revoked_at` on, which may lie ahead: a rotated key may overlap with its
    successor. A name is free again as soon as `revoked_at` is set.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("role IN ('inference', 'admin')", name="role"),
        Index(
            "uq_api_keys_live_name",
            "tenant",
            "name",
            unique=True,
            # In PostgreSQL too; to say so here would load its dialect where SQLite is used.
            sqlite_where=text("revoked_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    allowed_models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    groups: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    user_name: Mapped[str | None] = mapped_column(String(64))
    privacy: Mapped[str] = mapped_column(
        String(16), server_default="local_only", default="local_only"
    )
    last4: Mapped[str] = mapped_column(String(4))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    rotated_from: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id", ondelete="SET NULL"))


class LimitRow(Base):
    """A limit or budget of a key (by its id), a tenant or a model.

    `value` counts requests or tokens; of a budget it is billionths of the currency.
    """

    __tablename__ = "limits"
    __table_args__ = (
        CheckConstraint("subject_kind IN ('key', 'tenant', 'model')", name="subject_kind"),
        CheckConstraint("without_store IN ('allow', 'refuse')", name="without_store"),
        CheckConstraint("value >= 0", name="value"),
    )

    subject_kind: Mapped[str] = mapped_column(String(8), primary_key=True)
    subject: Mapped[str] = mapped_column(String(128), primary_key=True)
    measure: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
    without_store: Mapped[str] = mapped_column(String(8))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class UsageAttempt(Base):
    """An attempt to answer a request: what it used and cost, never its text.

    It outlives its key and its tenant, so it refers to neither. `day` is of `started_at`, in UTC.
    """

    __tablename__ = "usage_attempts"
    __table_args__ = (
        Index("ix_usage_attempts_tenant_day", "tenant", "day"),
        Index("ix_usage_attempts_key_id_day", "key_id", "day"),
        Index("ix_usage_attempts_day", "day"),
        Index("ix_usage_attempts_request_id", "request_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(128))
    tenant: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(12))
    model: Mapped[str] = mapped_column(String(128))
    route: Mapped[str] = mapped_column(String(64))
    endpoint: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str] = mapped_column(String(64))
    day: Mapped[str] = mapped_column(String(10))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ttft_ms: Mapped[float | None] = mapped_column(Float)
    duration_ms: Mapped[float] = mapped_column(Float)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    estimated: Mapped[bool] = mapped_column()
    """Whether the tokens were counted here, because the engine told no usage."""

    cost_nanos: Mapped[int] = mapped_column(BigInteger)
    receipt: Mapped[str | None] = mapped_column(Text)
    """Signed, as the client got it with the answer; none where this attempt gave none."""

    settled: Mapped[bool] = mapped_column(server_default=true(), default=True)
    """Whether Valkey has the settlement. False if it was written while Valkey was away."""


class AuditEventRow(Base):
    """A change: who made it, when, of what, and to what. Never a key's text."""

    __tablename__ = "audit_events"
    __table_args__ = (Index("ix_audit_events_at", "at"),)

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    subject_kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(128))
    change: Mapped[dict[str, Any]] = mapped_column(JSON)


class EgressEntry(Base):
    """An entry of the egress ledger. Written once, and never changed.

    Every column is hashed as the text it is, and `hash` is in the next entry's `previous`.
    `departure` is the sequence of the departure that an arrival belongs to.
    """

    __tablename__ = "egress_entries"
    __table_args__ = (Index("ix_egress_entries_request_id", "request_id"),)

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    previous: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    at: Mapped[str] = mapped_column(String(32))
    request_id: Mapped[str] = mapped_column(String(128))
    attempt_id: Mapped[str] = mapped_column(String(64))
    tenant: Mapped[str] = mapped_column(String(64))
    departure: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    facts: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(String(64))


class EgressCheckpoint(Base):
    """A signature under the egress ledger as it was at a time; `signature` is hex."""

    __tablename__ = "egress_checkpoints"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[str] = mapped_column(String(64))
    at: Mapped[str] = mapped_column(String(32))
    key_id: Mapped[str] = mapped_column(String(43))
    signature: Mapped[str] = mapped_column(String(128))
    note_text: Mapped[str | None] = mapped_column(Text)
    """What is signed; null: the fields above, as earlier versions did."""
    frontier: Mapped[str | None] = mapped_column(Text)
    """The Merkle tree's complete subtrees, from which the next checkpoint goes on."""
