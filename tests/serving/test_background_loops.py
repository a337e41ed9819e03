"""No part's background loop ends with an error that nobody thought of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from models.background import BackgroundLoop
from rag.database import SqlDatabase as RagDatabase
from rag.drift.drift import Drift
from rag.drift.query_sums import QuerySums
from rag.files.expiry import Expiry
from rag.index.embedder_checks import EmbedderChecks
from rag.index.lexical_index import text_index
from rag.ingestion.ingestion import Ingestion
from rag.ingestion.leases import Leases
from rag.ingestion.recovery import Recovery
from serving.access.invalidation import Invalidations
from serving.accounting.ledger import Ledger
from serving.admission.admission import Admission
from serving.admission.reservations import Reservations
from serving.domain.model_state import ModelState
from serving.egress.ledger.ledger import EgressLedger
from serving.egress.limits.gatekeeper import Gatekeeper
from serving.ray_cluster.engine_watch import EngineWatch
from serving.retrieval.drift_watch import DriftWatch
from serving.storage.database import Database
from serving.storage.errors import DatabaseUnavailable
from serving.storage.leftovers import Leftovers
from serving.storage.valkey import Valkey
from serving.telemetry.meter import Meter
from tests.rag.store_with_vectors import MemoryVectors
from tests.rag.workshop import LineParser, Texts
from tests.serving.egress.ledgers import SECRET, rules
from tests.serving.virtual_time import run

UNEXPECTED = "of a kind that no loop expects"


@dataclass
class OddValkey:
    """Fails in an unexpected way once, and then replies the same thing always."""

    reply: Any = None
    calls: int = 0

    async def run(self, *_: Any) -> Any:
        return await self.command()

    async def command(self, *words: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise TypeError(UNEXPECTED)
        await asyncio.sleep(1)
        return [] if words[:1] == ("XREAD",) else self.reply

    async def close(self) -> None:
        pass


@dataclass
class OddDatabase:
    """Fails in an unexpected way once, and is away then."""

    dialect: Literal["sqlite"] = "sqlite"
    calls: int = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls == 1:
            raise TypeError(UNEXPECTED)
        raise DatabaseUnavailable("away")
        yield

    transaction = session


def valkey(odd: OddValkey) -> Valkey:
    return cast("Valkey", odd)


def database(odd: OddDatabase) -> Database:
    return cast("Database", odd)


async def for_a_while(loop: Any, seconds: float = 300) -> None:
    """Have a part run that has `start` and `close`."""
    loop.start()
    await asyncio.sleep(seconds)
    await loop.close()


def test_engines_are_watched_on() -> None:
    asked = 0

    async def readiness() -> Mapping[str, ModelState]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise TypeError(UNEXPECTED)
        return {"m": ModelState("loading")}

    watch = EngineWatch(readiness)  # type: ignore[arg-type]
    run(for_a_while(watch.loop))
    assert not watch.ready("m")


def test_drift_is_watched_on() -> None:
    odd = OddDatabase()
    run(for_a_while(DriftWatch(database(odd), Meter()).loop))
    assert odd.calls > 1


def test_revoked_keys_are_heard_of_on() -> None:
    async def work() -> bool:
        invalidations = Invalidations(
            valkey(OddValkey([1, 0])), clock=asyncio.get_running_loop().time
        )
        invalidations.start()
        await asyncio.sleep(30)
        current = invalidations.is_current()
        await invalidations.close()
        return current

    assert run(work())


def test_keys_of_running_requests_are_checked_on() -> None:
    asked = 0

    async def still_works(_key: str) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise TypeError(UNEXPECTED)
        return True

    async def work() -> None:
        odd = OddValkey()
        odd.calls = 1
        admission = Admission(
            policies=cast("Any", None), reservations=Reservations(valkey(odd)), queues={},
            lookups=cast("Any", None), still_works=still_works, max_request_s=60,
        )  # fmt: skip
        admission._running["k1"] = set()
        await for_a_while(admission)

    run(work())
    assert asked > 1


def test_leases_of_attempts_are_renewed_on() -> None:
    odd = OddValkey(b"null")

    async def work() -> None:
        await for_a_while(Gatekeeper(valkey(odd), {}))

    run(work())
    assert odd.calls > 1


def test_rows_of_the_usage_ledger_are_moved_on() -> None:
    odd = OddValkey()

    async def work() -> None:
        ledger = Ledger(database(OddDatabase()), valkey(odd), prefix="p")
        ledger.start()
        await asyncio.sleep(300)
        assert odd.calls > 1

    run(work())


def test_head_of_the_egress_ledger_is_signed_on() -> None:
    odd = OddDatabase()

    async def work() -> None:
        ledger = EgressLedger(database(odd), SECRET, rules(every_s=10))
        for loop in ledger.loops:
            if loop.name == "egress_signing":
                await for_a_while(loop)

    run(work())
    assert odd.calls > 1


async def test_entries_that_a_stop_has_kept_are_looked_for_again(tmp_path: Path) -> None:
    class Odd(Leftovers):
        calls = 0

        def files(self) -> list[Path]:
            self.calls += 1
            if self.calls == 1:
                raise PermissionError
            return []

    leftovers = Odd([tmp_path], "egress", what="entries")
    ledger = EgressLedger(database(OddDatabase()), SECRET, rules(), leftovers=leftovers)
    ledger.start()
    async with asyncio.timeout(20):
        while leftovers.calls < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await ledger.close()


def test_what_retrieval_does_beside_searches_goes_on() -> None:
    def parts(odd: OddDatabase) -> list[BackgroundLoop]:
        rows, vectors, text = cast("RagDatabase", odd), MemoryVectors(), text_index("sqlite")
        clock = asyncio.get_running_loop().time
        sums, texts = QuerySums(clock), Texts()
        sums.add("g1", cast("Any", [1.0, 0.0]), 0.5)
        ingestion = Ingestion(
            rows, vectors, text, leases=Leases(rows, text, {}, clock=clock), contents=texts,
            parser=LineParser(texts), checks=EmbedderChecks({}, clock=clock),
        )  # fmt: skip
        recovery = Recovery(
            rows, vectors, text, contents=texts, expiry=Expiry(rows, text, clock=clock), clock=clock
        )
        drift = Drift(rows, vectors, {}, sums=sums, clock=clock)
        return [
            *ingestion.loops(workers=1, poll_s=1),
            *recovery.loops(poll_s=1, sweep_s=60),
            *drift.loops(interval_s=60),
        ]

    async def work(at: int) -> tuple[str, int]:
        odd = OddDatabase()
        loop = [one for one in parts(odd) if one.name != "ingestion_leases"][at]
        await for_a_while(loop)
        return loop.name, odd.calls

    calls = dict(run(work(at)) for at in range(3))
    assert all(many > 1 for many in calls.values()), calls
    assert set(calls) == {"ingestion_1", "recovery", "drift"}
