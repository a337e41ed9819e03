"""Receipts, kept with the attempts that answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Answers so far have none: nobody knows what theirs said."""
    op.add_column("usage_attempts", sa.Column("receipt", sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("usage_attempts", "receipt")
