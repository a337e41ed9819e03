"""What is known of loops in another process, also while that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from models.background import LoopState
from models.engine import EngineUnavailable
from serving.retrieval.knowledge_watch import KnowledgeWatch
from tests.serving.virtual_time import run


def test_loops_are_told_and_grow_old_while_nobody_answers() -> None:
    async def work() -> None:
        answers = 1

        async def ask() -> Sequence[LoopState]:
            nonlocal answers
            answers -= 1
            if answers < 0:
                raise EngineUnavailable("gone")
            return [LoopState("recovery", 2, 1.0), LoopState("embedder_checks", 0, None)]

        watch = KnowledgeWatch(ask, every_s=10)
        assert list(watch.states()) == []
        watch.loop.start()
        await asyncio.sleep(25)
        assert list(watch.states()) == [
            LoopState("recovery", 2, 26.0),
            LoopState("embedder_checks", 0, None),
        ]
        assert watch.loop.state().failures == 2
        await watch.loop.close()

    run(work())
