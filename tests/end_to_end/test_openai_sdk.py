"""The official Python SDK against the real engine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall
from pydantic import BaseModel

from tests.end_to_end.backend import EMBEDDER, EXACT_MODEL, MODEL, Backend

pytestmark = pytest.mark.engine

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def sdk(backend: Backend) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{backend.url}/v1", api_key=backend.key, max_retries=0) as client:
        yield client


def test_sdk_chat_answers_and_meters(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=EXACT_MODEL, messages=QUESTION, temperature=0, max_completion_tokens=24
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_sdk_shows_the_request_id(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_tokens=1, extra_headers={"x-request-id": "mine-1"}
    )
    assert answer.parse()._request_id == "mine-1"
    assert answer.headers["x-ringfence-route"] == "local"
    assert answer.headers["x-ringfence-privacy"] == "local_only"
    assert answer.headers["openai-processing-ms"].isdecimal()


def test_sdk_streams_deltas_in_order_with_usage_when_asked(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=EXACT_MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "Paris" in text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_sdk_streams_no_usage_unless_asked(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_sdk_gets_several_choices_and_the_same_ones_from_the_same_seed(sdk: OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = sdk.chat.completions.create(
            model=MODEL, messages=QUESTION, n=2, seed=7, temperature=1.0, max_tokens=8
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(first) == 2
    assert first == ask()


def test_sdk_stop_ends_the_answer_before_the_text(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=EXACT_MODEL, messages=QUESTION, temperature=0, max_tokens=24, stop=["Paris"]
    )
    assert "Paris" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_sdk_logprobs_cover_every_token(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(item.token for item in logprobs.content) == answer.choices[0].message.content
    assert all(len(item.top_logprobs) == 3 and item.logprob <= 0 for item in logprobs.content)


REPEATS = [{"role": "user", "content": "Say only the word yes, a hundred times."}]


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_sdk_penalty_makes_another_answer(sdk: OpenAI, penalty: str) -> None:
    def answer(**fields: float) -> object:
        made = sdk.chat.completions.create(
            model=EXACT_MODEL, messages=REPEATS, temperature=0, max_tokens=40, **fields
        )
        return made.choices[0].message.content

    assert answer(**{penalty: 2.0}) != answer(**{penalty: 0.0}) == answer()


def test_sdk_least_top_p_is_greedy(sdk: OpenAI) -> None:
    def answer(**fields: float) -> object:
        made = sdk.chat.completions.create(
            model=EXACT_MODEL, messages=QUESTION, max_tokens=24, **fields
        )
        return made.choices[0].message.content

    assert answer(temperature=1.5, top_p=1e-6, seed=1) == answer(temperature=0)


class City(BaseModel):
    name: str
    population: int


def test_sdk_parses_and_validates_a_json_schema(sdk: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "population": {"type": "integer", "minimum": 0, "maximum": 99999},
        },
        "required": ["name", "population"],
        "additionalProperties": False,
    }
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=80,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema, "strict": True},
        },
    )
    City.model_validate_json(answer.choices[0].message.content or "")


def test_sdk_json_object_is_json(sdk: OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": 'Answer with the JSON object {"ok": true}.'}],
        temperature=0,
        max_tokens=200,
        response_format={"type": "json_object"},
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_sdk_tool_choice_forces_a_call_that_fits_its_schema(
    sdk: OpenAI, choice: object, streamed: bool
) -> None:
    wanted = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [TOOL],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 128,
    }
    if streamed:
        with sdk.chat.completions.stream(**wanted) as stream:
            message = stream.get_final_completion().choices[0].message
    else:
        message = sdk.chat.completions.create(**wanted).choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.id
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


Told = tuple[str, list[tuple[str, str]], str | None]
"""Content, name and arguments of each call, and the finish reason."""


def accumulated(stream: openai.Stream[ChatCompletionChunk]) -> Told:
    """Assemble a stream in the usual way, which needs arguments to be text in the first delta."""
    calls: dict[int, ChoiceDeltaToolCall] = {}
    content, finish = "", None
    for chunk in stream:
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or ():
            if call.index not in calls:
                calls[call.index] = call
            else:
                calls[call.index].function.arguments += call.function.arguments
    called = [(call.function.name, call.function.arguments) for call in calls.values()]
    return content, called, finish


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_sdk_is_told_of_a_call_that_was_cut_short(sdk: OpenAI, choice: object) -> None:
    for max_tokens in (1, 4, 7, 10, 12, 14, 16):
        wanted = {
            "model": EXACT_MODEL,
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [TOOL],
            "tool_choice": choice,
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        cut = sdk.chat.completions.create(**wanted).choices[0]
        told = [
            (call.function.name, call.function.arguments) for call in cut.message.tool_calls or ()
        ]
        assert accumulated(sdk.chat.completions.create(**wanted, stream=True)) == (
            cut.message.content or "",
            told,
            "length",
        )
        assert cut.finish_reason == "length"
        for name, arguments in told:
            assert name == "get_weather"
            with pytest.raises(json.JSONDecodeError):
                json.loads(arguments)


@pytest.mark.parametrize("function", [{}, {"parameters": {"type": "object", "properties": {}}}])
def test_sdk_function_without_parameters_is_called_with_an_empty_object(
    sdk: OpenAI, function: dict[str, object]
) -> None:
    wanted = {
        "model": EXACT_MODEL,
        "messages": [{"role": "user", "content": "Ping the server."}],
        "tools": [{"type": "function", "function": {"name": "ping"} | function}],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 64,
    }
    message = sdk.chat.completions.create(**wanted).choices[0].message
    assert message.tool_calls is not None
    told = [(call.function.name, call.function.arguments) for call in message.tool_calls]
    assert {(name, str(json.loads(arguments))) for name, arguments in told} == {("ping", "{}")}
    streamed = accumulated(sdk.chat.completions.create(**wanted, stream=True))
    assert streamed == ("", told, "tool_calls")


def test_sdk_continues_after_a_tool_answer(sdk: OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    answer = sdk.chat.completions.create(
        model=MODEL,
        max_tokens=4,
        tools=[TOOL],
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
    )
    assert answer.object == "chat.completion"


def test_sdk_completions_take_text_and_token_ids(sdk: OpenAI) -> None:
    text = sdk.completions.create(model=MODEL, prompt="The sky is", max_tokens=4, temperature=0)
    ids = sdk.completions.create(model=MODEL, prompt=[504, 6376, 314], max_tokens=4, temperature=0)
    assert text.choices[0].text == ids.choices[0].text
    assert text.usage is not None
    assert text.usage.completion_tokens == 4


def test_sdk_completions_answer_several_prompts_in_order(sdk: OpenAI) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt=["One two", "Red green"], max_tokens=3, temperature=0, echo=True
    )
    assert [c.text.startswith(p) for c, p in zip(answer.choices, ("One", "Red"), strict=True)]
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_sdk_embeddings_are_normalised_and_ordered(sdk: OpenAI) -> None:
    texts = ["a cat sits", "a kitten is sitting", "stock prices fell"]
    answer = sdk.embeddings.create(model=EMBEDDER, input=texts)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_sdk_embeddings_base64_equal_floats(sdk: OpenAI) -> None:
    packed = sdk.embeddings.create(model=EMBEDDER, input="x", dimensions=64)
    floats = sdk.embeddings.create(
        model=EMBEDDER, input="x", dimensions=64, encoding_format="float"
    )
    assert np.allclose(packed.data[0].embedding, floats.data[0].embedding, atol=1e-6)
    assert len(floats.data[0].embedding) == 64


def test_sdk_lists_and_retrieves_models(sdk: OpenAI) -> None:
    assert {MODEL, EMBEDDER} <= {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve(MODEL).id == MODEL


def test_sdk_answer_is_the_same_with_the_fields_that_are_only_noted(sdk: OpenAI) -> None:
    def answer(**fields: object) -> object:
        made = sdk.chat.completions.create(
            model=EXACT_MODEL, messages=QUESTION, temperature=0, max_tokens=24, **fields
        )
        return made.choices[0].message.content

    noted = {"store": False, "metadata": {"a": "b"}, "user": "u", "service_tier": "auto"}
    more = {"parallel_tool_calls": True, "extra_body": {"something_new": 1}}
    assert answer(**noted, **more) == answer()


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "x " * 5000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"n": 1_000_000}, openai.BadRequestError, None),
        ({"logit_bias": {"99999999": 5}}, openai.BadRequestError, None),
    ],
)
def test_sdk_raises_its_own_error_types(
    sdk: OpenAI, change: dict[str, object], error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as raised:
        sdk.chat.completions.create(**({"model": MODEL, "messages": QUESTION} | change))
    assert raised.value.code == code


def test_sdk_wrong_key_is_an_authentication_error(backend: Backend) -> None:
    with (
        OpenAI(base_url=f"{backend.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.models.list()
    assert raised.value.code == "invalid_api_key"
