"""Tenants and their API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("allowed_models", sa.JSON(), nullable=True),
        sa.Column("last4", sa.String(4), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rotated_from", sa.String(12), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_api_keys_tenant", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["rotated_from"],
            ["api_keys.id"],
            name="fk_api_keys_rotated_from",
            ondelete="SET NULL",
        ),
        sa.CheckConstraint("role IN ('inference', 'admin')", name=op.f("ck_api_keys_role")),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])
    live = sa.text("revoked_at IS NULL")
    op.create_index(
        "uq_api_keys_live_name",
        "api_keys",
        ["tenant", "name"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )


def downgrade() -> None:
    """Drop both tables, and every key with them."""
    op.drop_table("api_keys")
    op.drop_table("tenants")
