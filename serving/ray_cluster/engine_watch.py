"""The watch over engines: which models have none now, known without waiting."""

from __future__ import annotations

from models.background import BackgroundLoop
from serving.domain.model_state import ModelState, Readiness

EVERY_S = 1.0


class EngineWatch:
    """Looks at the states of models again and again, and is their `Readiness` for everybody else.

    So whoever was told that a model is ready is not refused for want of it. Where nothing is known
    a model counts as ready: requests find out soon enough.

    Args:
        readiness: knows the states.
        every_s: how often it is asked.
    """

    def __init__(self, readiness: Readiness, *, every_s: float = EVERY_S) -> None:
        self._readiness = readiness
        self._every_s = every_s
        self._lost: frozenset[str] = frozenset()
        self.loop = BackgroundLoop("engine_watch", self, every_s=self._pause_s, at_once=True)

    def ready(self, model: str) -> bool:
        """Whether an engine runs that model, as far as is known."""
        return model not in self._lost

    async def __call__(self) -> dict[str, ModelState]:
        """See `Readiness`; it has a deadline of its own."""
        states = await self._readiness()
        self._lost = frozenset(
            model for model, state in states.items() if state.known and state.state != "ready"
        )
        return states

    def _pause_s(self) -> float:
        return self._every_s / 4 if self._lost else self._every_s
