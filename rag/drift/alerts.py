"""Alerts of drift as a number for each measure: vector stores whose last report has it."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import func, select

from rag.database import Database
from rag.schema import DriftReport

ALARMING = ("canary_cosine", "psi", "psi_documents", "centroid_shift", "low_share", "staleness")
"""Measures that can alarm."""


async def drifting_stores(database: Database) -> Counter[str]:
    """How many stores alarm now, by measure."""
    last = select(func.max(DriftReport.id)).group_by(DriftReport.store_id)
    async with database.session() as session:
        found = await session.scalars(select(DriftReport.alerts).where(DriftReport.id.in_(last)))
        return Counter(measure for alerts in found for measure in alerts)
