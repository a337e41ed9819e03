import pytest
from sqlalchemy import func, select, text

from serving.access import audit
from serving.access.tenants import TenantStore
from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from serving.storage.schema import AuditEventRow as AuditRow


async def test_newest_changes_come_first_and_pages_go_back(database: Database) -> None:
    store = TenantStore(database)
    for name in "abcde":
        await store.create(name)
    newest = await audit.events(database, limit=2)
    older = await audit.events(database, limit=2, before=newest[-1].id)
    assert [event.subject for event in (*newest, *older)] == ["e", "d", "c", "b"]


async def test_event_says_who_when_and_what(database: Database) -> None:
    before = utc_now()
    await TenantStore(database).create("acme", weight=2.0, actor="an-admin")
    (event,) = await audit.events(database, limit=10)
    assert (event.actor, event.action, event.subject_kind, event.subject, event.change) == (
        "an-admin", "tenant.create", "tenant", "acme", {"weight": 2.0},
    )  # fmt: skip
    assert before <= event.at <= utc_now()


async def test_change_that_is_rolled_back_leaves_no_event(database: Database) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            audit.record(session, "x", "tenant.create", subject=("tenant", "acme"), change={})
            await session.flush()
            await session.execute(text("SELECT nonsense"))

    with pytest.raises(DatabaseUnavailable):
        await fail()
    async with database.session() as session:
        assert await session.scalar(select(func.count()).select_from(AuditRow)) == 0
