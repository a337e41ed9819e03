"""Checkpoints of the egress ledger that are signed notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add their columns. Checkpoints so far have neither, and stay as they were signed."""
    op.add_column("egress_checkpoints", sa.Column("note_text", sa.Text(), nullable=True))
    op.add_column("egress_checkpoints", sa.Column("frontier", sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove them with the checkpoints that nobody could verify without."""
    op.execute("DELETE FROM egress_checkpoints WHERE note_text IS NOT NULL")
    op.drop_column("egress_checkpoints", "frontier")
    op.drop_column("egress_checkpoints", "note_text")
