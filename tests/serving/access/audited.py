"""Reads the audit, oldest change first."""

from __future__ import annotations

from typing import Any

from serving.access import audit
from serving.storage.database import Database


async def changes(database: Database) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return actor, action, subject and change of every row."""
    found = await audit.events(database, limit=1000)
    return [
        (one.actor, one.action, f"{one.subject_kind}:{one.subject}", one.change)
        for one in reversed(found)
    ]


async def actions(database: Database) -> list[str]:
    return [action for _, action, _, _ in await changes(database)]
