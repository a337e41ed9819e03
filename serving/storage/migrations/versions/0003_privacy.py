"""Which rows of the usage ledger are in the sums of budgets, and the privacy class of keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns: all rows so far came the usual way, and nothing has left."""
    op.add_column(
        "usage_attempts",
        sa.Column("settled", sa.Boolean(), server_default=sa.true(), nullable=False),
    )
    privacy = sa.text("'local_only'")
    op.add_column(
        "api_keys", sa.Column("privacy", sa.String(16), server_default=privacy, nullable=False)
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_column("api_keys", "privacy")
    op.drop_column("usage_attempts", "settled")
