"""Files, vector stores and what is known of their vectors; groups and users of keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables, and two columns of keys."""
    _add_files()
    _add_stores()
    _add_store_files()
    _add_store_lists()
    _add_generations()
    _add_chunks()
    _add_drift()
    _add_rights()


def _add_files() -> None:
    """Uploaded files, and who may read them."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("privacy", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "purpose IN ('user_data', 'assistants', 'batch')", name="ck_files_purpose"
        ),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_files_tenant", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_tenant_created_at", "files", ["tenant", "created_at"], unique=False)
    op.create_table(
        "file_access",
        sa.Column("file_id", sa.String(40), nullable=False),
        sa.Column("entry", sa.String(80), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name="fk_file_access_file_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("file_id", "entry", name="pk_file_access"),
    )


def _add_stores() -> None:
    """Vector stores, and batches of files in them."""
    op.create_table(
        "vector_stores",
        sa.Column("number", BIG, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_active_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_after_days", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.name"], name="fk_vector_stores_tenant", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_vector_stores"),
        sa.UniqueConstraint("id", name="uq_vector_stores_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_vector_stores_tenant_created_at",
        "vector_stores",
        ["tenant", "created_at"],
        unique=False,
    )
    op.create_table(
        "file_batches",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("store_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["store_id"], ["vector_stores.id"], name="fk_file_batches_store_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_file_batches"),
    )
    op.create_index("ix_file_batches_store_id", "file_batches", ["store_id"], unique=False)


def _add_store_files() -> None:
    """Files in vector stores."""
    op.create_table(
        "store_files",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("store_id", sa.String(40), nullable=False),
        sa.Column("file_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(32), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.String(8), nullable=False),
        sa.Column("chunk_tokens", sa.Integer(), nullable=False),
        sa.Column("overlap_tokens", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(40), nullable=True),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(40), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.CheckConstraint(
            "status IN ('in_progress', 'completed', 'cancelled', 'failed')",
            name="ck_store_files_status",
        ),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name="fk_store_files_file_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["store_id"], ["vector_stores.id"], name="fk_store_files_store_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_store_files"),
        sa.UniqueConstraint("store_id", "file_id", name="uq_store_files_store_id_file_id"),
    )
    op.create_index("ix_store_files_file_id", "store_files", ["file_id"], unique=False)
    op.create_index(
        "ix_store_files_status_lease_until", "store_files", ["status", "lease_until"], unique=False
    )


def _add_store_lists() -> None:
    """Who may read a vector store, and which files a batch has."""
    op.create_table(
        "vector_store_access",
        sa.Column("store_id", sa.String(40), nullable=False),
        sa.Column("entry", sa.String(80), nullable=False),
        sa.ForeignKeyConstraint(
            ["store_id"],
            ["vector_stores.id"],
            name="fk_vector_store_access_store_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("store_id", "entry", name="pk_vector_store_access"),
    )
    op.create_table(
        "batch_files",
        sa.Column("batch_id", sa.String(40), nullable=False),
        sa.Column("store_file_id", BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["file_batches.id"], name="fk_batch_files_batch_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["store_file_id"],
            ["store_files.id"],
            name="fk_batch_files_store_file_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("batch_id", "store_file_id", name="pk_batch_files"),
    )


def _add_generations() -> None:
    """Where vectors are, and what is to be done there."""
    op.create_table(
        "index_intents",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("collection", sa.String(128), nullable=True),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_index_intents"),
    )
    op.create_table(
        "index_generations",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("store_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("collection", sa.String(128), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("revision", sa.String(80), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("canaries", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("reembedded_to", BIG, server_default="0", nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'building', 'previous')", name="ck_index_generations_state"
        ),
        sa.ForeignKeyConstraint(
            ["store_id"],
            ["vector_stores.id"],
            name="fk_index_generations_store_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_index_generations"),
        sa.UniqueConstraint("collection", name="uq_index_generations_collection"),
    )
    op.create_index(
        "ix_index_generations_store_id_state",
        "index_generations",
        ["store_id", "state"],
        unique=False,
    )


def _add_chunks() -> None:
    """Pieces of files."""
    op.create_table(
        "chunks",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("key", sa.String(56), nullable=False),
        sa.Column("store_number", BIG, nullable=False),
        sa.Column("store_file_id", BIG, nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["store_file_id"],
            ["store_files.id"],
            name="fk_chunks_store_file_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_chunks"),
        sa.UniqueConstraint("key", name="uq_chunks_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chunks_store_file_id", "chunks", ["store_file_id"], unique=False)
    op.create_index("ix_chunks_version", "chunks", ["version"], unique=False)
    op.create_index("ix_chunks_store_number", "chunks", ["store_number"], unique=False)


def _add_drift() -> None:
    """What searches were like."""
    op.create_table(
        "drift_reports",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("store_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("alerts", sa.JSON(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["store_id"], ["vector_stores.id"], name="fk_drift_reports_store_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_drift_reports"),
    )
    op.create_index(
        "ix_drift_reports_store_id_created_at",
        "drift_reports",
        ["store_id", "created_at"],
        unique=False,
    )
    op.create_table(
        "drift_baselines",
        sa.Column("generation_id", sa.String(40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["index_generations.id"],
            name="fk_drift_baselines_generation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("generation_id", name="pk_drift_baselines"),
    )
    op.create_table(
        "drift_days",
        sa.Column("generation_id", sa.String(40), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("writer", sa.String(40), nullable=False),
        sa.Column("searches", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["index_generations.id"],
            name="fk_drift_days_generation_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("generation_id", "day", "writer", name="pk_drift_days"),
    )


def _add_rights() -> None:
    """What access lists may name of a key."""
    op.add_column("api_keys", sa.Column("groups", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("api_keys", sa.Column("user_name", sa.String(64), nullable=True))


def downgrade() -> None:
    """Drop them; full-text tables, vectors and uploaded bytes stay behind."""
    op.drop_column("api_keys", "user_name")
    op.drop_column("api_keys", "groups")
    op.drop_table("drift_days")
    op.drop_table("drift_baselines")
    op.drop_index("ix_chunks_store_number", table_name="chunks")
    op.drop_index("ix_chunks_version", table_name="chunks")
    op.drop_index("ix_chunks_store_file_id", table_name="chunks")
    op.drop_table("chunks")
    op.drop_table("batch_files")
    op.drop_table("vector_store_access")
    op.drop_index("ix_store_files_status_lease_until", table_name="store_files")
    op.drop_index("ix_store_files_file_id", table_name="store_files")
    op.drop_table("store_files")
    op.drop_index("ix_index_generations_store_id_state", table_name="index_generations")
    op.drop_table("index_generations")
    op.drop_index("ix_file_batches_store_id", table_name="file_batches")
    op.drop_table("file_batches")
    op.drop_table("file_access")
    op.drop_index("ix_drift_reports_store_id_created_at", table_name="drift_reports")
    op.drop_table("drift_reports")
    op.drop_index("ix_vector_stores_tenant_created_at", table_name="vector_stores")
    op.drop_table("vector_stores")
    op.drop_index("ix_files_tenant_created_at", table_name="files")
    op.drop_table("files")
    op.drop_table("index_intents")
