"""Admission and accounting of one gateway, wired: who is let in, and where their use is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from models.background import BackgroundLoop
from models.catalog import ModelSpec
from serving.access.authenticator import Authenticator
from serving.access.invalidation import Invalidations
from serving.accounting.ledger import Ledger
from serving.accounting.pricing import Tariff
from serving.admission.admission import Admission
from serving.admission.budgets import BudgetSpending, Lookups
from serving.admission.fair_queue import FairQueue
from serving.admission.policies import Policies
from serving.admission.reservations import Reservations
from serving.attempts import Attempts
from serving.config import Settings
from serving.storage.database import Database
from serving.storage.leftovers import Leftover, Leftovers
from serving.storage.valkey import PREFIX, Valkey
from serving.telemetry.meter import Meter


@dataclass(frozen=True, slots=True)
class AdmissionParts:
    """Admission and accounting of a gateway, for its pipeline and its admin API."""

    valkey: Valkey
    invalidations: Invalidations
    spending: BudgetSpending
    ledger: Ledger
    admission: Admission
    attempts: Attempts

    @classmethod
    def open(
        cls,
        database: Database,
        settings: Settings,
        *,
        authenticator: Authenticator,
        invalidations: Invalidations,
        meter: Meter,
        is_ready: Callable[[str], bool],
        prefix: str = PREFIX,
    ) -> Self:
        """Wire everything; nothing runs yet.

        Raises:
            ConfigError: there is no Valkey.
            ValkeyUrlInvalid: its URL cannot be one.
        """
        valkey = Valkey.open(settings.valkey_url)
        reservations = Reservations(valkey, prefix=prefix)
        ledger = Ledger(
            database,
            valkey,
            prefix=prefix,
            leftovers=usage_leftovers(settings),
            unsettled=reservations.unsettled_rows,
        )
        queues = {spec.id: _queue(spec, settings) for spec in settings.models}
        admission = Admission(
            policies=Policies(database, settings.admission, changes=invalidations),
            reservations=reservations,
            queues=queues,
            lookups=Lookups(ledger.spent_nanos),
            still_works=authenticator.still_works,
            max_request_s=settings.admission.max_request_s,
        )
        invalidations.subscribe(admission.recheck_keys)  # After what keeps keys has forgotten.
        tariffs = {spec.id: Tariff.of(spec) for spec in settings.models}
        _watch(meter, admission)
        attempts = Attempts(admission=admission, meter=meter, tariffs=tariffs, is_ready=is_ready)
        spending = BudgetSpending(valkey, ledger.spent_nanos, prefix=prefix)
        return cls(valkey, invalidations, spending, ledger, admission, attempts)

    @property
    def loops(self) -> tuple[BackgroundLoop, ...]:
        """What runs beside requests: leases, revocations, moving rows into the ledger."""
        return (
            self.invalidations.loop,
            self.admission.reservations.loop,
            self.admission.watch,
            self.ledger.loop,
        )

    def start(self) -> None:
        """Begin what runs beside requests."""
        self.invalidations.start()
        self.admission.start()
        self.ledger.start()

    async def close(self) -> list[Leftover]:
        """Stop, and send the rest. Returns what could not be written."""
        await self.invalidations.close()
        await self.admission.close()
        left = await self.ledger.close()
        await self.valkey.close()
        return left


def usage_leftovers(settings: Settings) -> Leftovers:
    """Return where rows of the usage ledger are kept that a stop cannot write."""
    return Leftovers.of(settings.home, "usage", what="usage rows")


def _queue(spec: ModelSpec, settings: Settings) -> FairQueue:
    """Build the queue before this gateway's share of a model's slots."""
    parts = (spec.max_replicas or spec.replicas) / settings.server.gateway_replicas
    admission = settings.admission
    return FairQueue(
        slots=max(1, math.ceil(spec.max_ongoing_requests * parts)),
        max_waiting=math.ceil(spec.max_queued_requests * parts),
        max_wait_s=admission.max_queue_wait_s,
        overload_wait_s=admission.overload_wait_s,
    )


def _watch(meter: Meter, admission: Admission) -> None:
    """Show in metrics what admission is at."""
    for model, queue in admission.queues.items():
        meter.watch(
            "queued_requests", "Requests that wait for a place.",
            partial(_waiting, queue), model=model,
        )  # fmt: skip
    reservations = admission.reservations
    meter.watch("valkey_up", "Whether Valkey answered last.", lambda: reservations.available)
    meter.watch("unsettled_attempts", "Waiting for Valkey.", lambda: reservations.unsettled)
    meter.watch("unchecked_requests", "Let in without Valkey.", lambda: admission.unchecked)


def _waiting(queue: FairQueue) -> float:
    return queue.waiting
