"""The background loops of the `Knowledge` process, shown in a gateway's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

from models.background import BackgroundLoop, LoopState

EVERY_S = 15.0


class KnowledgeWatch:
    """Asks how those loops fare again and again. Where nobody answers, what was told grows old.

    Args:
        ask: the process that owns the indexes. It has a deadline of its own.
        every_s: the pause between two questions.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[Sequence[LoopState]]], *, every_s: float = EVERY_S
    ) -> None:
        self._ask = ask
        self._states: Sequence[LoopState] = ()
        self._told_at = 0.0
        self.loop = BackgroundLoop("knowledge_watch", self._look, every_s=every_s, at_once=True)

    def states(self) -> Iterator[LoopState]:
        """How the loops fare, as far as is known."""
        for state in self._states:
            age_s = state.success_age_s
            if age_s is not None:
                age_s += asyncio.get_running_loop().time() - self._told_at
            yield replace(state, success_age_s=age_s)

    async def _look(self) -> None:
        self._states = await self._ask()
        self._told_at = asyncio.get_running_loop().time()
