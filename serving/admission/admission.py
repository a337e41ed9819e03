"""Admission: what a request may use is reserved, then it waits its turn; its use is settled once.

One scope around a request's work. However it is left, the reservation is settled and the place in
the engine is free. Knows nothing of HTTP, engines or prices.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from datetime import date, datetime

from models.background import BackgroundLoop
from serving.admission.budgets import Lookups, begin, budget_of, sums_of
from serving.admission.demand import (
    NEVER_RAN,
    Demand,
    Settlement,
    Uninitialised,
    Verdict,
)
from serving.admission.fair_queue import FairQueue
from serving.admission.policies import Policies, Policy
from serving.admission.refusals import check_tokens, granted
from serving.admission.reservations import Reservations
from serving.admission.slots import QueueFull, QueueTimeout, Slot
from serving.domain.calls import Priority
from serving.domain.errors import (
    AdmissionUnavailable,
    DeadlineExceeded,
    InvalidKey,
    Overloaded,
    RingfenceError,
    ServerStopping,
    StoreUnavailable,
)
from serving.domain.principal import Principal
from serving.domain.quota import Quota
from serving.storage.errors import DatabaseUnavailable, ValkeyUnavailable

SETTLE_WAIT_S = 1.0
"""How long the client waits for Valkey to confirm a settlement. It is kept beyond that."""

CLOSE_WAIT_S = 2.0
"""How long an ended request may take to find out what it used."""

STORE_WAIT_S = 2.0
"""How long an unreachable Valkey is waited for before a limit that fails closed refuses."""

STORE_RETRY_S = 0.1
SEED_TRIES = 20
"""Attempts to initialise a busy budget before giving up."""

REVOCATION_CHECK_S = 1.0

StillWorks = Callable[[str], Awaitable[bool]]
"""Tells whether the key of that id has not been revoked since."""


@dataclass(frozen=True, slots=True)
class Most:
    """The most a request can use: tokens of prompt and answers, and billionths of the currency."""

    tokens: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants in.

    `most` tells what is used at most in so many seconds; it is asked only where a limit or a
    budget is on that. `tokens` is a guess that costs nothing, for the queue; one that is not
    `placed` takes no place in it. One that comes `again` was counted before.
    """

    id: str
    principal: Principal
    model: str
    started_at: datetime
    facts: str
    most: Callable[[float], Awaitable[Most]]
    tokens: int = 1
    priority: Priority = "interactive"
    timeout_s: float | None = None
    placed: bool = True
    again: bool = False


@dataclass(slots=True, eq=False)
class Permit:
    """The right to run, for as long as its scope lasts."""

    quota: Quota
    ends_at: float
    deadline: asyncio.Timeout = field(init=False)
    slot: Slot | None = None
    ended: Exception | None = None

    def __post_init__(self) -> None:
        self.deadline = asyncio.timeout_at(self.ends_at)

    def end(self, error: RingfenceError) -> None:
        """End the scope with `error` as soon as the loop can, unless it is ending already."""
        if self.ended is not None or self.deadline.expired():
            return
        self.ended = error
        self.deadline.reschedule(asyncio.get_running_loop().time())

    @property
    def waited_s(self) -> float:
        """Seconds that the request waited for its slot."""
        return 0.0 if self.slot is None else self.slot.waited_s

    def spend(self, settlement: Settlement) -> Settlement:
        """Tell the queue what the request used."""
        if self.slot is not None:
            self.slot.spend(max(1, settlement.tokens))
        return settlement

    def why(self, error: BaseException) -> BaseException:
        """Return the real reason of `error`: a cancelled scope may have been ended by us."""
        if not self.deadline.expired():
            return error
        return self.ended or DeadlineExceeded()


Close = Callable[[BaseException | None], Settlement | Awaitable[Settlement]]
"""Called when the work is over, with what ended it if that was an error.

Most know at once what was used; a task for them would take a tenth of all that a request takes.
"""


@dataclass(slots=True)
class Admission:
    """Lets requests in, one scope each.

    Attributes:
        policies: which limits apply.
        reservations: what is left of them.
        queues: of each model, its places.
        lookups: what the ledger says of a budget that Valkey does not know.
        still_works: asked about the key of a request that comes in, and about those of requests
            that run or wait, every second and when a change is announced.
        max_request_s: the longest that a request may take.
        unchecked: requests let in while Valkey was away.
        stopping: whether `stop` was called.
    """

    policies: Policies
    reservations: Reservations
    queues: Mapping[str, FairQueue]
    lookups: Lookups
    still_works: StillWorks
    max_request_s: float
    unchecked: int = 0
    stopping: bool = False
    _running: dict[str, set[Permit]] = field(default_factory=lambda: defaultdict(set))
    watch: BackgroundLoop = field(init=False)

    def __post_init__(self) -> None:
        self.watch = BackgroundLoop(
            "key_revocation", self._look_at_keys, every_s=REVOCATION_CHECK_S,
            longest_s=REVOCATION_CHECK_S,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to be heard of by Valkey, and to look for keys that were revoked."""
        self.reservations.start()
        self.watch.start()

    def recheck_keys(self, _changed: frozenset[str] | None) -> None:
        """Look at once whether keys of requests that run or wait were revoked."""
        self.watch.wake()

    def stop(self) -> None:
        """End every request that runs or waits for its turn, and let none in any more."""
        self.stopping = True
        for permits in self._running.values():
            for permit in permits:
                permit.end(ServerStopping())

    async def close(self) -> None:
        """Send the remaining settlements."""
        await self.watch.close()
        await self.reservations.close()

    @asynccontextmanager
    async def enter(self, ask: Ask, close: Close) -> AsyncIterator[Permit]:
        """The scope of one request's work. `close` tells what it used.

        Raises:
            AdmissionError: it is not let in, or not let go on.
            ServerStopping: the server is stopping.
            InvalidKey: its key was revoked meanwhile.
            StoreUnavailable: which limits apply cannot be looked up.
        """
        if self.stopping:
            raise ServerStopping
        ends_at = _now() + self._longest_s(ask)
        if not await self.still_works(ask.principal.key_id):  # Its body may have taken long.
            raise _revoked()
        policy = await self.policies.of(ask.principal, ask.model)
        demand, quota = await self._reserved(ask, policy, ends_at)
        settlement = NEVER_RAN
        try:
            async with self._placed(ask, policy, demand, Permit(quota, ends_at)) as permit:
                try:
                    yield permit
                except BaseException as error:
                    settlement = permit.spend(await _uninterrupted(close(permit.why(error))))
                    raise
                settlement = permit.spend(await _uninterrupted(close(None)))
        finally:
            await self._settle(demand, settlement)

    async def check(self, principal: Principal) -> None:
        """Refuse what the rates of a key and its tenant forbid already. Nothing is reserved.

        For before the work that comes before `enter`, which decides: a limit counts there only.

        Raises:
            RateLimited: which limit, and when to try again.
            StoreUnavailable: which limits apply cannot be looked up.
        """
        policy = await self.policies.of_caller(principal)
        if not policy.rates:
            return
        demand = Demand("", 0, 0, policy.rates, budgets=(), sums=(), facts="")
        with suppress(ValkeyUnavailable):  # What then applies, `enter` knows.
            granted(await self.reservations.look(demand), demand, policy)

    async def _reserved(self, ask: Ask, policy: Policy, ends_at: float) -> tuple[Demand, Quota]:
        """Reserve the most that the request will use. Returns it, and what is left of limits."""
        try:
            async with asyncio.timeout_at(ends_at):
                demand = await self._demand(ask, policy)
                return demand, await self._reserve(demand, policy, ask.started_at.date())
        except TimeoutError:
            raise DeadlineExceeded from None

    @asynccontextmanager
    async def _placed(
        self, ask: Ask, policy: Policy, demand: Demand, permit: Permit
    ) -> AsyncIterator[Permit]:
        """A place in the engine, within the request's time."""
        place = self._place(ask, policy, demand)
        try:
            async with permit.deadline:
                with self._watched(ask.principal.key_id, permit):
                    async with place as permit.slot:
                        yield permit
        except (QueueFull, QueueTimeout) as error:
            raise Overloaded(
                "Too many requests wait for this model; try again later.",
                retry_after_s=error.retry_after_s,
                quota=permit.quota,
            ) from None
        except TimeoutError as error:
            raise permit.why(error) from None

    def _place(
        self, ask: Ask, policy: Policy, demand: Demand
    ) -> AbstractAsyncContextManager[Slot | None]:
        if not ask.placed:
            return nullcontext()
        return self.queues[ask.model].slot(
            ask.principal.tenant,
            weight=policy.weight,
            priority=ask.priority,
            cost=max(1, demand.tokens or ask.tokens),
            timeout_s=ask.timeout_s,
        )

    @contextmanager
    def _watched(self, key_id: str, permit: Permit) -> Iterator[None]:
        """Ended when the key is revoked, or the server stops."""
        running = self._running[key_id]
        running.add(permit)
        if self.stopping:  # Since it was let in.
            permit.end(ServerStopping())
        try:
            yield
        finally:
            running.discard(permit)
            if not running:
                self._running.pop(key_id, None)

    async def _look_at_keys(self) -> None:
        for key_id in list(self._running):
            with suppress(StoreUnavailable):  # Nobody was revoked that we know of.
                if not await self.still_works(key_id):
                    for permit in list(self._running.get(key_id, ())):
                        permit.end(_revoked())

    def _longest_s(self, ask: Ask) -> float:
        return min(self.max_request_s, ask.timeout_s or self.max_request_s)

    async def _demand(self, ask: Ask, policy: Policy) -> Demand:
        most = Most(tokens=0, cost_nanos=0)
        if policy.counts_tokens:
            most = await ask.most(self._longest_s(ask))
        check_tokens(most.tokens, policy)
        day = ask.started_at.date()
        return Demand(
            id=ask.id,
            tokens=most.tokens,
            cost_nanos=most.cost_nanos,
            limits=[one.uncounted() for one in policy.rates] if ask.again else policy.rates,
            budgets=[budget_of(limit, day) for limit in policy.budgets],
            facts=ask.facts,
            sums=sums_of(ask.principal.key_id, ask.principal.tenant, day),
        )

    async def _reserve(self, demand: Demand, policy: Policy, day: date) -> Quota:
        if self.reservations.is_full:
            raise AdmissionUnavailable("Too much waits to be settled. Try again soon.")
        if policy.is_empty:
            self.reservations.hold(demand)
            return Quota()
        give_up_at = _now() + (STORE_WAIT_S if policy.refuses_without_store else 0.0)
        while True:
            try:
                verdict = await self._ask(demand, policy, day)
                return granted(verdict, demand, policy)
            except (ValkeyUnavailable, DatabaseUnavailable):
                if _now() >= give_up_at:
                    return self._unchecked(demand, policy)
            await asyncio.sleep(STORE_RETRY_S)

    async def _ask(self, demand: Demand, policy: Policy, day: date) -> Verdict:
        """Ask Valkey, and tell it on the way what it does not know of budgets."""
        verdict = await self.reservations.reserve(demand)
        for _ in range(len(demand.budgets) + SEED_TRIES):
            if not isinstance(verdict, Uninitialised):
                break
            await self._initialise(demand, policy, verdict, day)
            verdict = await self.reservations.reserve(demand)
        return verdict

    async def _initialise(
        self, demand: Demand, policy: Policy, uninitialised: Uninitialised, day: date
    ) -> None:
        """Tell Valkey what the ledger says was spent of a budget."""
        limit, budget = policy.budgets[uninitialised.budget], demand.budgets[uninitialised.budget]
        since, version = begin(limit.window, day), uninitialised.version
        spent = await self.lookups.spent(str(limit.subject), since, version=version)
        await self.reservations.initialise(budget, spent, version=version)

    def _unchecked(self, demand: Demand, policy: Policy) -> Quota:
        """Let in without a check, where every limit's policy says so."""
        if policy.refuses_without_store:
            raise AdmissionUnavailable("Limits cannot be checked at the moment. Try again soon.")
        self.unchecked += 1
        self.reservations.hold(demand)
        return Quota()

    async def _settle(self, demand: Demand, settlement: Settlement) -> None:
        """Settle, and wait for it, so that what a client was told is in the ledger.

        A scope that was cancelled waits too, shortly: nobody else is there to wait.
        """
        settled = self.reservations.settle(demand, settlement)
        await asyncio.wait({settled}, timeout=SETTLE_WAIT_S)


async def _uninterrupted(closing: Settlement | Awaitable[Settlement]) -> Settlement:
    """Await `closing` even if the caller is cancelled: what was used has to be known."""
    if isinstance(closing, Settlement):
        return closing
    task, give_up_at = asyncio.ensure_future(closing), _now() + CLOSE_WAIT_S
    while not task.done() and (left_s := give_up_at - _now()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left_s)
    task.cancel()
    return task.result()


def _revoked() -> InvalidKey:
    return InvalidKey("The API key was revoked.")


def _now() -> float:
    return asyncio.get_running_loop().time()
