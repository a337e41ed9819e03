"""Vectors of questions, including long ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from models.catalog import Price
from serving.domain.calls import Call
from serving.domain.errors import RateLimited
from serving.domain.principal import Principal
from serving.retrieval.query_vectors import MAX_PIECES, QueryVectors
from serving.wiring.admission import AdmissionParts
from tests.serving.conftest import SPECS
from tests.serving.fakes import DIMENSION, FakeEmbedder
from tests.serving.wired import CharacterCounter, Wire, invent_key

CALL = Call(
    request_id="r1", principal=Principal("acme", "k1", "ci", "inference", None), model="embed"
)


class SeeingEmbedder(FakeEmbedder):
    """Records its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def embed(self, inputs: Any) -> Any:
        self.seen += inputs
        return await super().embed(inputs)


Make = Callable[..., tuple[QueryVectors, SeeingEmbedder, AdmissionParts]]


@pytest.fixture
def make(wire: Wire) -> Make:
    def build(**settings: Any) -> tuple[QueryVectors, SeeingEmbedder, AdmissionParts]:
        embedder = SeeingEmbedder()
        price = Price(input_per_million=Decimal(1))
        specs = tuple(
            spec.model_copy(update={"price": price}) if spec.id == "embed" else spec
            for spec in SPECS
        )
        _, admission_parts, _ = wire(specs, {}, {"embed": embedder}, **settings)
        vectors = QueryVectors(
            admission_parts.attempts, {"embed": embedder}, {"embed": CharacterCounter()}
        )
        return vectors, embedder, admission_parts

    return build


async def test_each_question_has_one_vector_of_unit_length(make: Make) -> None:
    vectors, embedder, _ = make()
    found, _ = await vectors.of(CALL, ["what is lift", "what is drag"])
    assert found.shape == (2, DIMENSION)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0)
    alone, _ = await vectors.of(CALL, ["what is drag"])
    assert np.allclose(found[1], alone[0])
    assert embedder.seen[:2] == ["what is lift", "what is drag"]


async def test_long_question_is_embedded_whole_in_pieces(make: Make) -> None:
    vectors, embedder, _ = make()
    question = " ".join(f"word{i}" for i in range(40))
    found, _ = await vectors.of(CALL, [question])
    assert found.shape == (1, DIMENSION)
    assert "".join(embedder.seen) == question
    assert max(map(len, embedder.seen)) <= CharacterCounter.context_tokens


async def test_endless_question_is_cut(make: Make) -> None:
    vectors, embedder, _ = make()
    await vectors.of(CALL, ["x" * 1_000_000])
    assert len(embedder.seen) == MAX_PIECES


async def test_questions_are_settled_like_any_request(make: Make) -> None:
    vectors, _, admission_parts = make()
    key_id = invent_key()  # The ledger has what other tests used, too.
    principal = replace(CALL.principal, key_id=key_id)
    await vectors.of(replace(CALL, principal=principal), ["abcd", "efg"])
    (row,) = await admission_parts.ledger.report(group_by=[], key_id=key_id)
    assert (row.prompt_tokens, row.cost_nanos) == (7, 7_000)


async def test_questions_are_bounded_like_any_request(make: Make) -> None:
    vectors, _, _ = make(admission={"per_key": {"requests_per_minute": 1}})
    await vectors.of(CALL, ["abcd"])
    with pytest.raises(RateLimited):
        await vectors.of(CALL, ["abcd"])


async def test_it_is_told_when_a_request_is_let_in_and_of_none_that_is_not(make: Make) -> None:
    vectors, _, _ = make(admission={"per_key": {"requests_per_minute": 1}})
    first, second = asyncio.Event(), asyncio.Event()
    await vectors.of(CALL, ["abcd"], let_in=first)
    with pytest.raises(RateLimited):
        await vectors.of(CALL, ["abcd"], let_in=second)
    assert (first.is_set(), second.is_set()) == (True, False)
