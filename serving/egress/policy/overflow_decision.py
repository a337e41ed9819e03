"""The decision that a request leaves for a provider, and its reason.

Knows nothing of providers but their names, and of the queue only how long it says that a place
takes. What a request may show to whom is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from models.engine import (
    ContextLengthExceeded,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from serving.config.overflow import OverflowSettings, Trigger

MAX_SURGES = 256
"""Bounds that are remembered, before those whose surge is over are forgotten."""

_TRIGGERS: Mapping[type[EngineError], Trigger] = {
    EngineOverloaded: "overloaded",
    EngineUnavailable: "engine_unavailable",
    EngineTimeout: "engine_error",
    EngineFailed: "engine_error",
    ContextLengthExceeded: "context_length",
}


@dataclass(frozen=True, slots=True)
class WaitBounds:
    """The longest acceptable waits.

    Attributes:
        max_wait_s: a surge begins when a place takes longer.
        resume_wait_s: while it lasts, requests that would wait longer than this leave; the others
            stay. At most `max_wait_s`.
        dwell_s: it ends when no place took longer than `resume_wait_s` for this time.
    """

    max_wait_s: float
    resume_wait_s: float
    dwell_s: float


@dataclass(frozen=True, slots=True)
class KeyOverflow:
    """A key's own overflow settings; None where the model's apply."""

    enabled: bool = True
    max_wait_s: float | None = None
    max_share: float | None = None
    providers: tuple[str, ...] | None = None
    triggers: frozenset[Trigger] | None = None


@dataclass(frozen=True, slots=True)
class OverflowPolicy:
    """The overflow policy of a model.

    Attributes:
        enabled: whether any may.
        providers: by name, in the order in which they are tried.
        triggers: the reasons that count.
        wait: which waits are too long.
        max_share: of the requests in a window, 0 to 1.
    """

    enabled: bool
    providers: tuple[str, ...]
    triggers: frozenset[Trigger]
    wait: WaitBounds
    max_share: float

    @classmethod
    def of(cls, settings: OverflowSettings, model: str) -> Self:
        """The policy for one of our models: of the providers those that stand in for it."""
        return cls(
            enabled=True,
            providers=tuple(
                provider.name
                for provider in settings.providers
                if any(model in one.stands_in_for for one in provider.models)
            ),
            triggers=frozenset(settings.triggers),
            wait=WaitBounds(settings.max_wait_s, settings.resume_wait_s, settings.dwell_s),
            max_share=settings.max_share,
        )

    def of_key(self, key: KeyOverflow) -> OverflowPolicy:
        """The policy for a key of its own: it allows nothing that this one does not.

        How long a key likes to wait is its own affair.
        """
        max_wait_s = self.wait.max_wait_s if key.max_wait_s is None else key.max_wait_s
        wanted = self.providers if key.providers is None else key.providers
        return OverflowPolicy(
            enabled=self.enabled and key.enabled,
            providers=tuple(one for one in wanted if one in self.providers),
            triggers=self.triggers if key.triggers is None else self.triggers & key.triggers,
            wait=replace(
                self.wait,
                max_wait_s=max_wait_s,
                resume_wait_s=min(self.wait.resume_wait_s, max_wait_s),
            ),
            max_share=self.max_share
            if key.max_share is None
            else min(self.max_share, key.max_share),
        )

    def allows(self, trigger: Trigger, *, fits: bool = True) -> bool:
        """Whether a request may leave for that reason.

        One that does not fit in the context here leaves for no reason unless that one counts:
        overload must not open a way that was not opted in.
        """
        wanted = {trigger} if fits else {trigger, "context_length"}
        return self.enabled and bool(self.providers) and wanted <= self.triggers


class OverflowPolicies:
    """Overflow policies of each model and key."""

    def __init__(self, settings: OverflowSettings) -> None:
        self._settings = settings

    def of(self, model: str, key_id: str) -> OverflowPolicy:
        """The policy for one key's requests for one model."""
        policy = OverflowPolicy.of(self._settings, model)
        for part in (self._settings.per_model.get(model), self._settings.per_key.get(key_id)):
            if part is not None:
                policy = policy.of_key(
                    KeyOverflow(
                        enabled=part.enabled,
                        max_wait_s=part.max_wait_s,
                        max_share=part.max_share,
                        providers=part.providers,
                        triggers=None if part.triggers is None else frozenset(part.triggers),
                    )
                )
        return policy


@dataclass(frozen=True, slots=True)
class Here:
    """Load of the local model when a request arrives.

    Attributes:
        predicted_wait_s: how long this request would wait for a place.
        ready: whether any engine runs it.
    """

    predicted_wait_s: float
    ready: bool = True


class OverflowDecision:
    """Decides for the requests of one model.

    Every request is to be shown to it, also one that may never leave: surges are seen by them.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[WaitBounds, float] = {}

    def surges(self, wait: WaitBounds) -> bool:
        """Whether a surge goes on by those bounds."""
        return self._clock() < self._ends.get(wait, float("-inf"))

    def at_arrival(self, policy: OverflowPolicy, here: Here) -> Trigger | None:
        """Return why a request leaves before the local model is tried; None if it does not."""
        too_long = self._is_too_long(policy.wait, here.predicted_wait_s)
        trigger: Trigger | None = "queue_wait" if too_long else None
        if not here.ready:
            trigger = "engine_unavailable"
        return trigger if trigger is not None and policy.allows(trigger) else None

    def _is_too_long(self, wait: WaitBounds, predicted_wait_s: float) -> bool:
        bound_s = wait.resume_wait_s if self.surges(wait) else wait.max_wait_s
        if predicted_wait_s <= bound_s:
            return False
        self._forget()
        self._ends[wait] = self._clock() + wait.dwell_s
        return True

    def _forget(self) -> None:
        if len(self._ends) >= MAX_SURGES:
            now = self._clock()
            self._ends = {wait: end for wait, end in self._ends.items() if end > now}


def trigger_of(error: EngineError) -> Trigger | None:
    """Return the trigger for a failure of the local model; None if a provider would fail too."""
    return next((trigger for kind, trigger in _TRIGGERS.items() if isinstance(error, kind)), None)
