"""Every tool parser of vLLM's, before scripted tokens: what the client is told of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from transformers import PreTrainedTokenizerFast
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from models.vllm.chat import PULSE_TOKENS
from models.vllm.choice import READ_WHOLE
from tests.models.vllm.scripted_chat import BYTES, WORDS, Script, answer_of, calls_of, events
from tests.models.vllm.tool_formats import FORMATS, Call

TWO: list[Call] = [("weather", {"city": "Oslo", "days": [1, 2]}), ("ping", {})]
PING: list[Call] = [("ping", {})]
HARD: list[Call] = [("weather", {"city": 'a "b" {c} é 漢 c:\\d'})]
BRACKETS: list[Call] = [("weather", {"city": "Rio, [x] }"}), ("ping", {})]

ONE_CALL_ONLY = {"gigachat3", "internlm"}
LISTS_AS_TEXT = {"step3"}  # It does not look at the schema.
NO_LISTS = {"phi4_mini_json"}  # Its expression ends at the first bracket that closes.

every_parser = pytest.mark.parametrize("parser", sorted(FORMATS))


def written(parser: str, calls: list[Call]) -> list[Call]:
    """The calls that a format of one call at a time can have."""
    return calls[:1] if parser in ONE_CALL_ONLY else calls


def simple(parser: str) -> list[Call]:
    """Two calls, which the parser can read."""
    if parser in LISTS_AS_TEXT | NO_LISTS:
        return [("weather", {"city": "Oslo"}), ("ping", {})]
    return written(parser, TWO)


def parsed(choice: dict[str, Any]) -> list[Call]:
    return [(name, json.loads(arguments)) for name, arguments in calls_of(choice)]


def is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


async def answered(parser: str, script: Script, **asked: Any) -> dict[str, Any]:
    """The collected answer, without the ids of its calls, which are random."""
    choice = answer_of(await events(script, parser=parser, **asked))
    for call in choice["message"].get("tool_calls", []):
        assert call.pop("id")
    return choice


@every_parser
async def test_calls_are_read_from_a_stream_of_any_interval(parser: str) -> None:
    calls = simple(parser)
    text = FORMATS[parser](calls)
    choices = [await answered(parser, Script(text), interval=interval) for interval in (1, 3, 64)]
    assert parsed(choices[0]) == calls
    assert choices[0]["finish_reason"] == "tool_calls"
    assert choices[0]["message"]["content"] is None
    assert choices[1:] == choices[:1] * 2


@every_parser
async def test_hard_values_are_read_byte_by_byte(parser: str) -> None:
    script = Script(FORMATS[parser](HARD), BYTES)
    choices = [
        await answered(parser, script, interval=interval, tokens=BYTES) for interval in (1, 7)
    ]
    assert parsed(choices[0]) == HARD
    assert choices[0] == choices[1]


@every_parser
async def test_function_without_parameters_is_called_with_an_empty_object(parser: str) -> None:
    assert calls_of(await answered(parser, Script(FORMATS[parser](PING)))) == [("ping", "{}")]


@every_parser
async def test_call_that_is_cut_short_is_never_told_as_complete(parser: str) -> None:
    text = FORMATS[parser](simple(parser))
    whole = calls_of(await answered(parser, Script(text)))
    for at_most in range(1, len(WORDS.encode(text, add_special_tokens=False)) + 1):
        script = Script(text, at_most=at_most)
        choice = await answered(parser, script)
        assert choice["finish_reason"] == "length", at_most
        for told, complete in zip(calls_of(choice), whole, strict=False):
            assert told[0] == complete[0], at_most
            assert complete[1].startswith(told[1]), at_most
            assert told[1] == complete[1] or not is_object(told[1]), at_most
        assert calls_of(choice) or choice["message"]["content"] or not script.text.strip()


@every_parser
async def test_call_opens_with_its_name_and_empty_arguments(parser: str) -> None:
    opened = set()
    for chunk in await events(Script(FORMATS[parser](simple(parser))), parser=parser):
        ChatCompletionChunk.model_validate(chunk)
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls", []):
                if call["index"] in opened:
                    assert call.keys() == {"index", "function"}
                    assert call["function"].keys() == {"arguments"}
                    continue
                opened.add(call["index"])
                assert call.keys() == {"index", "id", "type", "function"}
                assert call["function"].keys() == {"name", "arguments"}
                assert call["function"]["arguments"] == ""
    assert opened == set(range(len(simple(parser))))


PLAIN = "pythonic"
"""A parser that leaves forced calls to vLLM, which has the model write plain JSON."""

REQUIRED = (
    '[{"name": "weather", "parameters": {"city": "Oslo"}}, {"name": "ping", "parameters": {}}]'
)
NAMED = {"type": "function", "function": {"name": "weather"}}
HERMES = FORMATS["hermes"](TWO)


@pytest.mark.parametrize("interval", [1, 3, 64])
async def test_forced_calls_in_plain_json_are_read(interval: int) -> None:
    choice = await answered(PLAIN, Script(REQUIRED), tool_choice="required", interval=interval)
    assert calls_of(choice) == [("weather", '{"city": "Oslo"}'), ("ping", "{}")]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("interval", [1, 3, 64])
@pytest.mark.parametrize("reasoning", [None, "qwen3"])
async def test_forced_calls_in_plain_json_may_be_laid_out_and_follow_reasoning(
    interval: int, reasoning: str | None
) -> None:
    text = '[ {"name" :"weather" ,\n"parameters":\t { "city": "Oslo"\n}\n} ]'
    thought = "<think>\nWhere?\n</think>\n\n" if reasoning else ""
    choice = await answered(
        PLAIN,
        Script(thought + text, BYTES),
        tokens=BYTES,
        tool_choice="required",
        reasoning=reasoning,
        interval=interval,
    )
    assert calls_of(choice) == [("weather", '{ "city": "Oslo"\n}')]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("interval", [1, 3, 64])
async def test_call_of_a_named_function_is_read_and_ends_with_stop(interval: int) -> None:
    script = Script('{"city": "Oslo"}')
    choice = await answered(PLAIN, script, tool_choice=NAMED, interval=interval)
    assert calls_of(choice) == [("weather", '{"city": "Oslo"}')]
    assert choice["finish_reason"] == "stop"


FORCED = [
    (PLAIN, REQUIRED, "required"),
    (PLAIN, '{"city": "Oslo", "days": [1, 2]}', NAMED),
    ("hermes", HERMES, "required"),
    ("hermes", FORMATS["hermes"](HARD), NAMED),
    ("llama3_json", FORMATS["llama3_json"](TWO), "required"),
    ("qwen3_coder", FORMATS["qwen3_coder"](TWO), "required"),
]
forced = pytest.mark.parametrize(("parser", "text", "choice"), FORCED)


@forced
async def test_forced_call_that_is_cut_by_max_tokens_ends_with_length(
    parser: str, text: str, choice: Any
) -> None:
    complete = calls_of(await answered(parser, Script(text), tool_choice=choice))
    for at_most in range(1, len(WORDS.encode(text, add_special_tokens=False)) + 1):
        script = Script(text, at_most=at_most)
        cut = await answered(parser, script, tool_choice=choice)
        assert cut["finish_reason"] == "length"
        assert cut == await answered(parser, script, tool_choice=choice, interval=64)
        for (name, arguments), (whole_name, whole) in zip(calls_of(cut), complete, strict=False):
            assert name == whole_name
            assert whole.startswith(arguments)
            assert arguments == whole or not is_object(arguments)


@forced
async def test_forced_call_that_is_cut_by_a_stop_string_ends_with_length(
    parser: str, text: str, choice: Any
) -> None:
    complete = calls_of(await answered(parser, Script(text), tool_choice=choice))
    for begin in range(len(text) - 1):
        script = Script(text, stop=text[begin : begin + 2])
        cut = await answered(parser, script, tool_choice=choice)
        assert cut == await answered(parser, script, tool_choice=choice, interval=5)
        told = calls_of(cut)
        if told and all(is_object(arguments) for _, arguments in told):
            assert told == complete[: len(told)]
        else:
            assert cut["finish_reason"] == "length"


async def test_stop_string_after_a_call_leaves_it_complete() -> None:
    choice = await answered("hermes", Script(HERMES, stop="\n</tool_call>"))
    assert calls_of(choice) == [("weather", '{"city": "Oslo", "days": [1, 2]}')]
    assert choice["finish_reason"] == "tool_calls"


async def test_stop_string_in_text_ends_it_with_stop() -> None:
    choice = await answered("hermes", Script("The weather is fine.", stop="fine"))
    assert choice["message"]["content"] == "The weather is "
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("at_most", [3, 5])
async def test_call_that_is_cut_before_its_name_is_told_as_text(at_most: int) -> None:
    script = Script("Let me see. " + HERMES, at_most=len(WORDS.encode("Let me see. ")) + at_most)
    choice = await answered("hermes", script)
    assert choice["message"]["content"] == script.text
    assert calls_of(choice) == []
    assert choice["finish_reason"] == "length"


async def test_what_is_no_call_after_all_is_told_as_text() -> None:
    text = '<tool_call>\n{"name": weather}\n</tool_call>'
    choice = await answered("hermes", Script(text))
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"


async def test_call_that_the_model_ends_without_arguments_gets_none_made_up() -> None:
    choice = await answered("hermes", Script('<tool_call>\n{"name": "weather"'))
    assert calls_of(choice) == [("weather", "")]


@pytest.mark.parametrize("parser", ["hermes", "jamba"])
async def test_text_without_calls_is_only_text(parser: str) -> None:
    script = Script("No tool is needed.\n")
    assert await answered(parser, script) == {
        "index": 0,
        "message": {"role": "assistant", "content": script.text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


async def test_only_the_first_call_is_told_where_parallel_calls_are_not_wanted() -> None:
    choice = await answered("hermes", Script(HERMES), parallel_tool_calls=False)
    assert calls_of(choice) == [("weather", '{"city": "Oslo", "days": [1, 2]}')]


@pytest.mark.parametrize("interval", [1, 64])
async def test_reasoning_comes_before_calls(interval: int) -> None:
    script = Script("<think>Where?\n</think>\n" + HERMES)
    choice = await answered("hermes", script, reasoning="qwen3", interval=interval)
    assert choice["message"]["reasoning"] == "Where?\n"
    assert parsed(choice) == TWO


NEEDS_ITS_OWN_TOKENS = {
    "cohere_command3", "cohere_command4", "hunyuan_a13b", "minimax_m3", "olmo3", "poolside_v1",
}  # fmt: skip


@pytest.mark.parametrize(
    "reasoning", sorted(set(ReasoningParserManager.list_registered()) - NEEDS_ITS_OWN_TOKENS)
)
async def test_reasoning_parsers_read_the_same_at_any_interval(reasoning: str) -> None:
    text = "<think>Let me see, é 漢.\nYes</think>\n\nSure. " + HERMES
    for at_most in (None, 20, 60):
        script = Script(text, at_most=at_most)
        choices = [
            await answered("hermes", script, reasoning=reasoning, interval=interval)
            for interval in (1, 3, 64)
        ]
        assert choices[1:] == choices[:1] * 2
        assert (choices[0]["finish_reason"] == "length") == (at_most is not None)


@pytest.mark.parametrize(("parser", "interval"), [("hermes", 1), ("hermes", 64), ("jamba", 64)])
async def test_logprobs_have_every_token(parser: str, interval: int) -> None:
    text = FORMATS[parser](TWO)
    choice = await answered(parser, Script(text), interval=interval, logprobs=True, top_logprobs=1)
    tokens = [row["token"] for row in choice["logprobs"]["content"]]
    assert "".join(tokens) == text + "<|im_end|>"


async def test_token_ids_are_told_for_every_token_where_they_are_wanted() -> None:
    chunks = await events(Script(HERMES), parser="hermes", return_token_ids=True)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    told = [token for choice in choices for token in choice.get("token_ids", ())]
    assert told == [*WORDS.encode(HERMES), WORDS.eos_token_id]
    assert chunks[0]["prompt_token_ids"] == [1, 2, 3]


async def test_choices_are_read_apart() -> None:
    chunks = await events(Script(HERMES, choices=2), parser="hermes", n=2)
    opened = [
        (choice["index"], call["index"])
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
        if "id" in call
    ]
    assert sorted(opened) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert chunks[-1]["usage"]["completion_tokens"] == 2 * (len(WORDS.encode(HERMES)) + 1)


async def test_usage_comes_last_and_counts_the_tokens() -> None:
    chunks = await events(Script(HERMES), parser="hermes", reasoning="qwen3")
    count = len(WORDS.encode(HERMES)) + 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": count,
        "total_tokens": 3 + count,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


async def test_parser_that_holds_back_a_long_call_is_not_silent() -> None:
    city = "Oslo" * 200
    script = Script(FORMATS["jamba"]([("weather", {"city": city})]))
    chunks = await events(script, parser="jamba")
    assert len(chunks) > 200 / PULSE_TOKENS
    assert parsed(answer_of(chunks)) == [("weather", {"city": city})]


@pytest.mark.parametrize("wanted", [{"tool_choice": "none"}, {"tools": None}])
async def test_vllm_renders_where_no_parser_is_at_work(wanted: dict[str, Any]) -> None:
    ours, theirs = [
        await events(Script(HERMES), parser="hermes", rendered_by_vllm=vllm, **wanted)
        for vllm in (False, True)
    ]
    for chunk in ours + theirs:
        chunk["created"] = 0
    assert ours == theirs
    assert answer_of(ours)["message"]["content"] == HERMES


READ_WHOLE_NAMES = sorted(
    name for name in FORMATS if ToolParserManager.get_tool_parser(name).__name__ in READ_WHOLE
)


@pytest.mark.parametrize("parser", READ_WHOLE_NAMES)
async def test_parser_that_is_read_whole_cannot_read_a_stream(parser: str) -> None:
    async def reads(calls: list[Call], tokens: PreTrainedTokenizerFast) -> bool:
        script = Script(FORMATS[parser](calls), tokens)
        chunks = await events(script, parser=parser, tokens=tokens, rendered_by_vllm=True)
        choice = answer_of(chunks)
        whole = all(is_object(arguments) for _, arguments in calls_of(choice))
        return whole and parsed(choice) == calls and not choice["message"]["content"]

    examples = (simple(parser), HARD, BRACKETS)
    read = [await reads(calls, tokens) for calls in examples for tokens in (WORDS, BYTES)]
    assert not all(read)


def test_every_parser_that_is_read_whole_is_one_of_vllm_s() -> None:
    names = {ToolParserManager.get_tool_parser(name).__name__ for name in READ_WHOLE_NAMES}
    assert names == READ_WHOLE


def test_every_parser_of_vllm_s_has_a_format_here() -> None:
    elsewhere = {"cohere_command3", "cohere_command4", "minimax_m3", "openai"}
    assert set(ToolParserManager.list_registered()) == FORMATS.keys() | elsewhere
