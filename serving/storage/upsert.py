"""Inserts that change the row which is there already, for both kinds of database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.storage.database import Dialect

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def insert(dialect: Dialect, table: Any) -> postgresql.Insert | sqlite.Insert:
    """An insert with `on_conflict_do_update`. A dialect takes 0.2 s to import, so not both are."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as into  # noqa: PLC0415
    else:
        from sqlalchemy.dialects.sqlite import insert as into  # type: ignore[assignment]  # noqa: PLC0415
    return into(table)
