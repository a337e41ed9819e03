from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog import builtin
from models.embedding.embedder import SentenceEmbedder, token_budget_batches
from models.engine import ContextLengthExceeded, RequestRejected
from models.prepare import prepare

SPEC = builtin()["all-minilm-l6-v2"]
TEXTS = [
    "A cat sits on the mat.",
    "Stock markets fell sharply on Monday, after the central bank raised its rates again.",
    "A kitten rests on the rug.",
    "",
    "word " * 200,
    "日本語 \x00 \U0001f600",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(SPEC, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def loaded(directory: Path) -> SentenceEmbedder:
    return SentenceEmbedder(SPEC, directory, threads=2)


@pytest.fixture
async def embedder(loaded: SentenceEmbedder) -> AsyncIterator[SentenceEmbedder]:
    yield loaded
    loaded.token_budget = 1024


async def test_vectors_are_unit_length_float32_of_the_catalogues_dimension(
    embedder: SentenceEmbedder,
) -> None:
    embeddings = await embedder.embed(TEXTS)
    assert embeddings.vectors.shape == (len(TEXTS), SPEC.dimension)
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)


async def test_vectors_equal_those_of_sentence_transformers(
    embedder: SentenceEmbedder, directory: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(directory), device="cpu").encode(TEXTS)
    np.testing.assert_allclose((await embedder.embed(TEXTS)).vectors, expected, atol=1e-5)


async def test_similar_sentences_are_closer(embedder: SentenceEmbedder) -> None:
    cat, stocks, kitten = (await embedder.embed(TEXTS[:3])).vectors
    assert cat @ kitten > 0.5
    assert cat @ stocks < 0.2


@pytest.mark.parametrize("budget", [1, 50, 4096])
async def test_order_is_kept_and_a_batch_equals_single_texts(
    embedder: SentenceEmbedder, budget: int
) -> None:
    singles = [(await embedder.embed([text])).vectors[0] for text in TEXTS]
    embedder.token_budget = budget
    together = await embedder.embed(TEXTS)
    np.testing.assert_allclose(together.vectors, singles, atol=1e-5)


async def test_token_ids_give_the_vectors_and_counts_of_their_text(
    embedder: SentenceEmbedder,
) -> None:
    ids = await embedder.encode(TEXTS)
    from_ids, from_texts = await embedder.embed(ids), await embedder.embed(TEXTS)
    np.testing.assert_array_equal(from_ids.vectors, from_texts.vectors)
    assert from_ids.token_counts == from_texts.token_counts == [len(one) for one in ids]
    assert from_ids.token_counts[3] == 2


async def test_nothing_gives_no_vectors(embedder: SentenceEmbedder) -> None:
    embeddings = await embedder.embed([])
    assert embeddings.vectors.shape == (0, 384)
    assert embeddings.token_counts == []


async def test_longest_text_is_taken_and_a_longer_one_refused_not_truncated(
    embedder: SentenceEmbedder,
) -> None:
    assert (await embedder.embed(["word " * 254])).token_counts == [256]
    with pytest.raises(ContextLengthExceeded) as caught:
        await embedder.embed(["fits", "word " * 255])
    assert caught.value.message == (
        "This model's maximum context length is 256 tokens. However, input[1] has 257 tokens."
        " Please reduce its length."
    )
    assert caught.value.param == "input"


async def test_catalogue_may_lower_the_limit(directory: Path) -> None:
    lower = SentenceEmbedder(SPEC.model_copy(update={"context_tokens": 16}), directory)
    with pytest.raises(ContextLengthExceeded, match=r"is 16 tokens.*input\[0\] has 22"):
        await lower.embed(["word " * 20])
    lower.close()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[101, 102], []], r"input\[1\] is empty"),
        ([[101, 30522]], r"input\[0\]: token ids of this model are 0 to 30521"),
        ([[-1]], r"input\[0\]: token ids of this model are 0 to 30521"),
        ([[101, 102], [9906, 1917]], r"input\[1\]: .* begin with 101 and end with 102"),
        ([[101, 3345, 2075, 102]], "gives other token ids"),  # `train`, `##ing`: 2731.
    ],
)
async def test_token_ids_that_are_not_the_model_s_own_are_rejected(
    embedder: SentenceEmbedder, ids: list[list[int]], message: str
) -> None:
    with pytest.raises(RequestRejected, match=message) as caught:
        await embedder.embed(ids)
    assert caught.value.param == "input"


class Batches:
    """The model's batches: how many texts each had, and none begins before it may."""

    def __init__(self, embed: Callable[[Any], Any]) -> None:
        self.sizes: list[int] = []
        self.may_begin = threading.Semaphore(0)
        self._embed = embed

    def __call__(self, ids: Any) -> Any:
        assert self.may_begin.acquire(timeout=60), "nobody let the batch begin"
        self.sizes.append(len(ids))
        return self._embed(ids)

    def let_begin(self, count: int) -> None:
        self.may_begin.release(count)


@pytest.fixture
def batches(embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> Batches:
    held = Batches(embedder._embed)
    monkeypatch.setattr(embedder, "_embed", held)
    return held


async def queued(embedder: SentenceEmbedder) -> None:
    """Wait until a batch waits behind the one that runs."""
    async with asyncio.timeout(60):
        while not embedder._forward._work_queue.qsize():  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.005)


async def begun(batches: Batches, count: int) -> None:
    async with asyncio.timeout(60):
        while len(batches.sizes) < count:  # noqa: ASYNC110  It has no event.
            await asyncio.sleep(0.005)


async def test_event_loop_runs_on_while_the_model_works(
    embedder: SentenceEmbedder, batches: Batches
) -> None:
    work = asyncio.create_task(embedder.embed(["text"]))
    await asyncio.sleep(0.05)
    assert (work.done(), batches.sizes) == (False, [])
    batches.let_begin(1)  # Only a loop that is not held up gets here.
    await work


async def test_small_request_does_not_wait_for_a_large_one(
    embedder: SentenceEmbedder, batches: Batches
) -> None:
    large = asyncio.create_task(embedder.embed(["word " * 200] * 20))
    batches.let_begin(1)
    await begun(batches, 1)
    small = asyncio.create_task(embedder.embed_ids(await embedder.encode(["small"])))
    await queued(embedder)
    batches.let_begin(20)
    await asyncio.gather(large, small)
    assert batches.sizes.index(1) < len(batches.sizes) - 1


async def test_cancelled_request_stops_after_its_batch(
    embedder: SentenceEmbedder, batches: Batches
) -> None:
    large = asyncio.create_task(embedder.embed(["word " * 200] * 20))
    batches.let_begin(1)
    await begun(batches, 1)
    large.cancel()
    with pytest.raises(asyncio.CancelledError):
        await large
    batches.let_begin(20)
    await embedder.embed(["next"])
    assert len(batches.sizes) <= 3  # The one that ran, one that waited for the thread, and this.


def test_close_stops_the_threads(directory: Path) -> None:
    before = threading.active_count()
    embedder = SentenceEmbedder(SPEC, directory)
    asyncio.run(embedder.embed(["text"]))
    assert threading.active_count() > before
    embedder.close()
    assert threading.active_count() == before


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 4096))
def test_batches_hold_every_index_once_by_falling_length_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = token_budget_batches(lengths, budget)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch
        assert len(batch) == 1 or lengths[batch[0]] * len(batch) <= budget


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(1, 4096))
def test_batches_are_as_full_as_the_budget_lets_them(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(lengths, budget)
    for batch in batches[:-1]:
        assert lengths[batch[0]] * (len(batch) + 1) > budget
