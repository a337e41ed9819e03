"""Checks of whether the served embedder made a store's vectors: cached, and never wrong."""

from __future__ import annotations

import pytest

from models.engine import EngineUnavailable
from rag.errors import EmbedderMismatch
from rag.index.embedder_checks import FRESH_S, EmbedderChecks
from rag.index.embedder_versions import ServedEmbedder, pin
from rag.index.protocols import Collection, Generation
from tests.rag.store_with_vectors import WordEmbedder, served


class Counted:
    """Embedders by model, the number of calls of one, and a clock."""

    def __init__(self) -> None:
        self.embedder = WordEmbedder(1)
        self.embedder.before = self.count
        self.calls = 0
        self.now = 0.0
        self.embedders: dict[str, ServedEmbedder] = {"m": served(self.embedder)}
        self.checks = EmbedderChecks(self.embedders, clock=lambda: self.now)

    def count(self) -> None:
        self.calls += 1


async def generation(model: str = "m", store: str = "vs_1", revision: str = "r1") -> Generation:
    pinned = await pin(WordEmbedder(1), model, revision)
    return Generation(
        "gen", store, "acme", Collection("acme", "gen"), model, revision, 16, pinned.canaries
    )


async def test_embedder_is_asked_once_for_all_stores() -> None:
    counted = Counted()
    for number in range(5):
        assert await counted.checks.refusal(await generation(store=f"vs_{number}")) is None
    assert counted.calls == 1


async def test_embedder_is_asked_again_after_a_while() -> None:
    counted = Counted()
    await counted.checks.refuse(await generation())
    counted.now += FRESH_S + 1
    counted.embedder.seed = 2
    with pytest.raises(EmbedderMismatch, match="ringfence reembed --store vs_1 --model m"):
        await counted.checks.refuse(await generation())


async def test_embedder_that_failed_is_asked_again_at_once() -> None:
    counted = Counted()

    def fail() -> None:
        raise EngineUnavailable("x")

    counted.embedder.before = fail
    with pytest.raises(EngineUnavailable):
        await counted.checks.refusal(await generation())
    counted.embedder.before = counted.count
    assert await counted.checks.refusal(await generation()) is None


async def test_another_embedder_under_the_same_name_is_asked_at_once() -> None:
    counted = Counted()
    await counted.checks.refuse(await generation())
    counted.embedders["m"] = served(WordEmbedder(2))
    with pytest.raises(EmbedderMismatch):
        await counted.checks.refuse(await generation())


async def test_model_that_is_not_served_and_another_revision_are_refused() -> None:
    counted = Counted()
    assert "which is not served" in str(await counted.checks.refusal(await generation("other")))
    assert "'r1' is served" in str(await counted.checks.refusal(await generation(revision="r0")))
    assert counted.calls == 0
