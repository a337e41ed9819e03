"""Limits, usage, the audit, and the weights of tenants."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add three tables and a column."""
    weight = sa.Column("weight", sa.Float(), server_default=sa.text("1"), nullable=False)
    op.add_column("tenants", weight)
    _add_limits()
    _add_usage()
    _add_audit()


def _add_limits() -> None:
    op.create_table(
        "limits",
        sa.Column("subject_kind", sa.String(8), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("measure", sa.String(32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("without_store", sa.String(8), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject_kind", "subject", "measure", name="pk_limits"),
        sa.CheckConstraint(
            "subject_kind IN ('key', 'tenant', 'model')", name=op.f("ck_limits_subject_kind")
        ),
        sa.CheckConstraint(
            "without_store IN ('allow', 'refuse')", name=op.f("ck_limits_without_store")
        ),
        sa.CheckConstraint("value >= 0", name=op.f("ck_limits_value")),
    )


def _add_usage() -> None:
    op.create_table(
        "usage_attempts",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(12), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(64), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ttft_ms", sa.Float(), nullable=True),
        sa.Column("duration_ms", sa.Float(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_attempts"),
    )
    op.create_index("ix_usage_attempts_tenant_day", "usage_attempts", ["tenant", "day"])
    op.create_index("ix_usage_attempts_key_id_day", "usage_attempts", ["key_id", "day"])
    op.create_index("ix_usage_attempts_day", "usage_attempts", ["day"])
    op.create_index("ix_usage_attempts_request_id", "usage_attempts", ["request_id"])


def _add_audit() -> None:
    op.create_table(
        "audit_events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject_kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("change", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_at", "audit_events", ["at"])


def downgrade() -> None:
    """Drop them, and what they hold."""
    op.drop_table("audit_events")
    op.drop_table("usage_attempts")
    op.drop_table("limits")
    op.drop_column("tenants", "weight")
