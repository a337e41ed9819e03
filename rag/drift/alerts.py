"""Counts drift alerts: the number of vector stores whose latest report raises each of them."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import func, select

from rag.database import SqlDatabase
from rag.schema import DriftReportRow

ALARMING = ("canary_cosine", "psi", "psi_documents", "centroid_shift", "low_share", "staleness")
"""Measures that can raise an alert."""


async def drifting_stores(database: SqlDatabase) -> Counter[str]:
    """Count the stores whose latest report raises an alert, by measure."""
    last = select(func.max(DriftReportRow.id)).group_by(DriftReportRow.store_id)
    async with database.session() as session:
        found = await session.scalars(
            select(DriftReportRow.alerts).where(DriftReportRow.id.in_(last))
        )
        return Counter(measure for alerts in found for measure in alerts)
