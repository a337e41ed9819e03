"""Wire models: strict types, limits, and the body for an engine."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.search.filters import Comparison
from serving.config import LimitSettings
from serving.domain.errors import InvalidRequest, Unsupported
from serving.domain.search_call import FileSearch, Ranking
from serving.gateway import body
from serving.gateway.wire.chat import ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeBody
from serving.gateway.wire.conversation import Message
from serving.gateway.wire.search import MAX_STORES

LIMITS = LimitSettings.model_validate({})
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"default": None}}}


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [USER]} | fields)


def completion(prompt: Any = "Hi", **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": prompt} | fields)


def embedding(value: Any) -> EmbeddingRequest:
    return EmbeddingRequest.model_validate({"model": "m", "input": value})


def test_null_fields_do_not_reach_the_engine() -> None:
    body = chat(n=None, tools=None, stop=None, response_format=None, seed=None).to_engine()
    assert body == {"messages": [USER]}


def test_nulls_inside_a_schema_reach_the_engine() -> None:
    assert chat(tools=[TOOL]).to_engine()["tools"] == [TOOL]


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_tool_choice_without_tools_does_not_reach_the_engine(choice: str) -> None:
    request = chat(tools=[], tool_choice=choice, parallel_tool_calls=True)
    request.check(LIMITS)
    assert request.to_engine() == {"messages": [USER]}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("Hi", 1), ("", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)],
)
def test_prompts_of_each_shape_are_counted(prompt: Any, prompts: int) -> None:
    assert completion(prompt).prompts == prompts


@given(
    st.text()
    | st.lists(st.text(), min_size=1)
    | st.lists(st.integers(0, 2**31 - 1), min_size=1)
    | st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1), min_size=1)
)
def test_prompt_of_each_shape_reaches_the_engine_unchanged(prompt: Any) -> None:
    assert completion(prompt).to_engine() == {"prompt": prompt}


@given(st.lists(st.text(min_size=1), min_size=1))
def test_embedding_inputs_keep_their_order(texts: list[str]) -> None:
    assert embedding(texts).inputs() == texts


@pytest.mark.parametrize(
    ("value", "inputs"), [("a", ["a"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])]
)
def test_embedding_input_becomes_a_list(value: Any, inputs: Any) -> None:
    assert embedding(value).inputs() == inputs


def test_choices_of_a_completion_are_prompts_times_n() -> None:
    assert completion(["a", "b"], n=4).choices == 8


@pytest.mark.parametrize("request_of", [lambda: chat(n=9), lambda: completion(["a"] * 3, n=3)])
def test_choices_over_the_limit_are_refused(request_of: Any) -> None:
    with pytest.raises(InvalidRequest, match="at most 8") as caught:
        request_of().check(LIMITS)
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    "kind",
    ["image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file"],
)
def test_media_is_refused_wherever_messages_are_taken(kind: str) -> None:
    messages = [USER, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind}]}]
    asked = {"model": "m", "messages": messages}
    for request in (ChatRequest.model_validate(asked), TokenizeBody.model_validate(asked)):
        with pytest.raises(Unsupported, match="fetched") as caught:
            request.check(LIMITS)
        assert caught.value.param == "messages[1].content"


def test_text_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert Message.model_validate({"role": "assistant", "content": parts}).text() == "a\nb"


def test_developer_is_the_system_s_new_name() -> None:
    message = Message.model_validate({"role": "developer", "content": "a"})
    assert message.to_engine() == {"role": "system", "content": "a"}


def test_schemas_are_found_by_the_field_they_stand_in() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    bare = {"type": "function", "function": {"name": "g"}}
    assert chat(tools=[bare, TOOL], response_format=form).schemas() == {
        "tools[0].function.parameters": {"type": "object", "properties": {}},
        "tools[1].function.parameters": {"default": None},
        "response_format.json_schema.schema": schema,
    }


@pytest.mark.parametrize("given", [{}, {"parameters": None}, {"parameters": {}}])
def test_function_without_parameters_takes_an_empty_object(given: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "g"} | given}
    sent = chat(tools=[tool]).to_engine()["tools"][0]["function"]
    assert sent == {"name": "g", "parameters": {"type": "object", "properties": {}}}


def test_schema_s_name_reaches_the_engine_as_openai_spells_it() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": None}}}
    assert chat(response_format=form).to_engine()["response_format"] == form


def file_search(**fields: Any) -> dict[str, Any]:
    return {"file_search": {"vector_store_ids": ["vs_1"]} | fields}


def test_conversation_is_grounded_in_nothing_unless_it_is_asked_for() -> None:
    assert chat(include=["file_search_call.results"]).grounding() is None


def test_file_search_needs_no_more_than_its_stores() -> None:
    assert chat(**file_search()).grounding() == FileSearch(["vs_1"])


def test_file_search_takes_what_the_search_route_takes() -> None:
    asked = file_search(
        vector_store_ids=["vs_1", "vs_2", "vs_1"],
        max_num_results=50,
        filters={"type": "gt", "key": "year", "value": 2020},
        ranking_options={
            "ranker": "none",
            "score_threshold": 0.5,
            "hybrid_search": {"embedding_weight": 2.0, "text_weight": 0.0},
        },
    )
    assert chat(**asked, include=["file_search_call.results"]).grounding() == FileSearch(
        store_ids=["vs_1", "vs_2"],
        limit=50,
        filters=Comparison("year", "gt", (2020.0,)),
        ranking=Ranking(0.5, 2.0, 0.0, "none"),
        with_results=True,
    )


def test_file_search_does_not_reach_the_engine() -> None:
    asked = chat(**file_search(), include=["file_search_call.results"], seed=1)
    assert asked.to_engine() == {"messages": [USER], "seed": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"file_search": True}, "file_search"),
        ({"file_search": {}}, "file_search.vector_store_ids"),
        (file_search(vector_store_ids="vs_1"), "file_search.vector_store_ids"),
        (file_search(vector_store_ids=[]), "file_search.vector_store_ids"),
        (
            file_search(vector_store_ids=["vs_1"] * (MAX_STORES + 1)),
            "file_search.vector_store_ids",
        ),
        (file_search(vector_store_ids=["vs_1", "../a"]), "file_search.vector_store_ids[1]"),
        (file_search(max_num_results=0), "file_search.max_num_results"),
        (file_search(max_num_results=101), "file_search.max_num_results"),
        (file_search(max_num_results="5"), "file_search.max_num_results"),
        (file_search(filters=[]), "file_search.filters"),
        (file_search(filters={"type": "like"}), "file_search.filters"),
        (
            file_search(ranking_options={"score_threshold": 2}),
            "file_search.ranking_options.score_threshold",
        ),
        (
            file_search(
                ranking_options={"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}
            ),
            "file_search.ranking_options.hybrid_search",
        ),
        ({"include": "file_search_call.results"}, "include"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]"),
    ],
)
def test_file_search_that_cannot_be_meant_is_refused_by_its_field(
    fields: dict[str, Any], param: str
) -> None:
    raw = orjson.dumps({"model": "m", "messages": [USER]} | fields)
    with pytest.raises(InvalidRequest) as caught:
        body.parse(raw, ChatRequest, max_depth=16).grounding()
    assert caught.value.param == param


def test_unknown_thing_to_include_is_refused_with_what_is_known() -> None:
    raw = orjson.dumps({"model": "m", "messages": [USER], "include": ["usage"]})
    with pytest.raises(InvalidRequest, match=r"must be 'file_search_call\.results'"):
        body.parse(raw, ChatRequest, max_depth=16)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": " "}, {"role": "assistant", "content": "Yes?"}],
        [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    ],
)
def test_file_search_needs_a_question(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest, match="what the user asks") as caught:
        chat(messages=messages, **file_search()).grounding()
    assert caught.value.param == "messages"
