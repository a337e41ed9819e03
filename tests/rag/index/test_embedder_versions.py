"""Fingerprints of embedders, and the detection of another one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rag.index.embedder_versions import CANARIES, canary_cosine, mismatch, pin
from tests.rag.store_with_vectors import WordEmbedder


@dataclass(frozen=True)
class Generation:
    canaries: bytes
    dimension: int = 16
    store_id: str = "vs_1"
    model: str = "org/mini"
    revision: str = "r1"


async def pinned(embedder: WordEmbedder) -> Generation:
    found = await pin(embedder, "org/mini", "r1")
    return Generation(found.canaries, found.dimension)


async def test_pin_holds_the_vectors_of_all_canaries() -> None:
    found = await pin(WordEmbedder(), "org/mini", "r1")
    assert (found.model, found.revision, found.dimension) == ("org/mini", "r1", 16)
    assert len(found.canaries) == len(CANARIES) * 16 * 4


@pytest.mark.parametrize("noise", [0.0, 0.01])
async def test_same_embedder_is_no_mismatch(noise: float) -> None:
    generation = await pinned(WordEmbedder())
    assert await mismatch(generation, WordEmbedder(noise=noise), "r1") is None


@pytest.mark.parametrize(
    ("embedder", "revision", "told"),
    [
        (None, None, "which is not served"),
        (WordEmbedder(), "r2", "revision 'r1' of 'org/mini'; 'r2' is served"),
        (WordEmbedder(dimension=8), "r1", "16 dimensions; 8 are served"),
        (WordEmbedder(seed=5), "r1", "another 'org/mini'"),
        (WordEmbedder(noise=1.0), "r1", "another 'org/mini'"),
    ],
)
async def test_mismatch_is_told_with_the_command_that_mends_it(
    embedder: WordEmbedder | None, revision: str | None, told: str
) -> None:
    sentence = await mismatch(await pinned(WordEmbedder()), embedder, revision)
    assert sentence is not None
    assert told in sentence
    model = "MODEL" if embedder is None else "org/mini"
    assert f"`ringfence reembed --store vs_1 --model {model}`" in sentence


async def test_canaries_of_another_dimension_have_no_cosine() -> None:
    generation = await pinned(WordEmbedder())
    assert await canary_cosine(WordEmbedder(dimension=8), generation.canaries) == -1
    assert await canary_cosine(WordEmbedder(), generation.canaries) == pytest.approx(1)
