"""Drift metrics: the number of stores whose latest report raises an alert, by measure."""

from __future__ import annotations

import asyncio

from rag.schema import DriftReportRow, VectorStore
from serving.access.tenants import TenantStore
from serving.retrieval.drift_watch import DriftWatch
from serving.storage.database import Database
from serving.telemetry.meter import Meter
from tests.serving.storage.databases import database, database_url, empty_url, postgres_url

__all__ = ["database", "database_url", "empty_url", "postgres_url"]


async def _report(database: Database, store: str, *alerts: str) -> None:
    async with database.transaction() as session:
        session.add(DriftReportRow(store_id=store, created_at=0, alerts=list(alerts), report={}))


async def test_last_report_of_each_store_counts(database: Database) -> None:
    await TenantStore(database).create("acme")
    async with database.transaction() as session:
        session.add_all(
            VectorStore(id=one, tenant="acme", name=one, details={}, created_at=0, last_active_at=0)
            for one in ("vs_1", "vs_2")
        )
    await _report(database, "vs_1", "psi", "staleness")
    await _report(database, "vs_2", "psi", "canary_cosine")
    await _report(database, "vs_1", "psi")
    meter = Meter()
    watch = DriftWatch(database, meter, every_s=0.01)
    watch.loop.start()
    async with asyncio.timeout(60):
        while 'stores{measure="psi"} 2.0' not in meter.render().decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await watch.loop.close()
    text = meter.render().decode()
    assert 'ringfence_drifting_vector_stores{measure="canary_cosine"} 1.0' in text
    assert 'ringfence_drifting_vector_stores{measure="staleness"} 0.0' in text
