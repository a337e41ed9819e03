"""`/v1/embeddings` as OpenAI has it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.engine import ContextLengthExceeded, EngineOverloaded, EngineUnavailable
from serving.gateway.openai.embeddings import shortened
from tests.serving.conftest import SPECS, Backend, Make
from tests.serving.fakes import DIMENSION, FakeEmbedder, vector_of


async def embed(backend: Backend, **fields: Any) -> httpx.Response:
    return await backend.post("/v1/embeddings", {"model": "embed", "input": "Hi"} | fields)


def vectors(answer: httpx.Response) -> Any:
    return [row["embedding"] for row in answer.json()["data"]]


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("Hi", ["Hi"]),
        (["Hi", "Hello"], ["Hi", "Hello"]),
        ([101, 102], [[101, 102]]),
        ([[101], [101, 102]], [[101], [101, 102]]),
    ],
    ids=["text", "texts", "ids", "id_lists"],
)
async def test_input_of_each_shape_reaches_the_embedder(
    make: Make, given_input: Any, inputs: Any
) -> None:
    embedder = FakeEmbedder()
    await embed(make(embedder=embedder), input=given_input)
    assert embedder.inputs == [inputs]


async def test_answer_has_openai_s_shape(backend: Backend) -> None:
    assert (await embed(backend, input=["Hi", "Hello"])).json() == {
        "object": "list",
        "model": "embed",
        "data": [
            {"object": "embedding", "index": at, "embedding": vector_of(text).tolist()}
            for at, text in enumerate(["Hi", "Hello"])
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_vectors_come_in_the_order_of_the_inputs(backend: Backend) -> None:
    texts = [f"text {at}" for at in range(50)]
    assert vectors(await embed(backend, input=texts)) == [vector_of(t).tolist() for t in texts]


@pytest.mark.parametrize("dimensions", [None, 3])
async def test_base64_holds_the_same_numbers_as_floats(
    backend: Backend, dimensions: int | None
) -> None:
    [floats] = vectors(await embed(backend, encoding_format="float", dimensions=dimensions))
    [text] = vectors(await embed(backend, encoding_format="base64", dimensions=dimensions))
    decoded = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    assert decoded.tolist() == floats


async def test_dimensions_cut_the_vector_and_give_it_unit_length_again(backend: Backend) -> None:
    [whole] = vectors(await embed(backend))
    [short] = vectors(await embed(backend, dimensions=3))
    cut = np.array(whole[:3])
    assert short == pytest.approx((cut / np.linalg.norm(cut)).tolist(), rel=1e-6)


async def test_all_dimensions_are_the_whole_vector(backend: Backend) -> None:
    assert vectors(await embed(backend, dimensions=DIMENSION)) == vectors(await embed(backend))


async def test_dimensions_beyond_an_undeclared_model_s_are_refused(make: Make) -> None:
    undeclared = SPECS[2].model_copy(update={"dimension": None})
    answer = await embed(make(specs=(*SPECS[:2], undeclared)), dimensions=DIMENSION + 1)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "dimensions")
    assert f"at most {DIMENSION}" in error["message"]


ROW = st.lists(st.floats(0.125, 1, width=32), min_size=4, max_size=4)


@given(st.lists(ROW, min_size=1, max_size=4), st.integers(1, 3))
def test_shortened_vectors_keep_their_direction_and_have_unit_length(
    rows: list[list[float]], size: int
) -> None:
    whole = np.array(rows, np.float32)
    short = shortened(whole, size)
    lengths = np.linalg.norm(whole[:, :size], axis=1, keepdims=True)
    assert short.shape == (len(rows), size)
    assert np.linalg.norm(short, axis=1) == pytest.approx(1, rel=1e-5)
    assert short * lengths == pytest.approx(whole[:, :size], rel=1e-5)


def test_shortened_vector_of_zeros_stays_finite() -> None:
    assert shortened(np.zeros((1, 4), np.float32), 2).tolist() == [[0, 0]]


async def test_tokens_are_metered(backend: Backend) -> None:
    await embed(backend, input=["Hi", "Hello"])
    assert await backend.metric('ringfence_tokens_total{kind="prompt",model="embed"}') == 7
    assert await backend.metric('ringfence_tokens_total{kind="completion",model="embed"}') == 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthExceeded("Long.", param="input"), 400, "context_length_exceeded"),
        (EngineOverloaded("Busy."), 503, "overloaded"),
        (EngineUnavailable("Gone."), 503, "model_unavailable"),
        (MemoryError("a bug"), 500, "internal_error"),
    ],
)
async def test_failure_of_the_embedder_is_told(
    make: Make, error: Exception, status: int, code: str
) -> None:
    answer = await embed(make(embedder=FakeEmbedder(error)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_answer_says_that_it_was_made_here(backend: Backend) -> None:
    headers = (await embed(backend)).headers
    assert headers["x-ringfence-route"] == "local"
    assert headers["x-ringfence-privacy"] == "local_only"


async def test_unknown_model_is_never_answered_by_another(backend: Backend) -> None:
    answer = await embed(backend, model="text-embedding-3-small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_every_vector_of_a_large_request_is_there(backend: Backend) -> None:
    answer = await embed(backend, input=["Hi"] * 2048)
    assert [row["index"] for row in answer.json()["data"]] == list(range(2048))
