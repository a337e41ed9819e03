import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.pseudonyms import Pseudonyms
from serving.privacy.scrubbing.restored_stream import AnswerRestorer, answers_in_json, restored

PSEUDONYMS = Pseudonyms(b"k")
NAME = PSEUDONYMS.of('Zebulon "Zeb" Quill', "PERSON")
MAIL = PSEUDONYMS.of("zeb@quill.example", "EMAIL")
FIELDS = ("reasoning_content", "content", "refusal")


def chunk(delta: dict[str, Any], *, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def call(arguments: str, at: int = 0, **function: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": at, "function": {"arguments": arguments, **function}}]}


async def stream(*chunks: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for one in chunks:
        yield one


async def collected(
    *chunks: dict[str, Any], restorer: AnswerRestorer | None = None
) -> list[dict[str, Any]]:
    restorer = restorer or AnswerRestorer(PSEUDONYMS)
    return [one async for one in restored(stream(*chunks), restorer)]


def texts(chunks: list[dict[str, Any]]) -> dict[tuple[int, str, int], str]:
    """Join the text of each channel."""
    found: dict[tuple[int, str, int], str] = {}

    def add(key: tuple[int, str, int], text: str | None) -> None:
        found[key] = found.get(key, "") + (text or "")

    for one in chunks:
        for choice in one["choices"]:
            said = choice.get("message") or choice.get("delta") or {}
            add((choice["index"], "text", 0), choice.get("text"))
            for name in FIELDS:
                add((choice["index"], name, 0), said.get(name))
            for place, tool in enumerate(said.get("tool_calls") or ()):
                at = tool.get("index", place)
                add((choice["index"], "arguments", at), tool["function"].get("arguments"))
    return {key: text for key, text in found.items() if text}


async def test_stream_is_restored_where_chunks_cut_a_pseudonym():
    got = await collected(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": f"To {MAIL[:4]}"}),
        chunk({"content": MAIL[4:] + "!"}),
        chunk({}, finish="stop"),
    )

    assert [one["choices"][0]["delta"].get("content") for one in got] == [
        "",
        "To ",
        "zeb@quill.example!",
        None,
    ]


async def test_stream_passes_chunks_without_text_unchanged():
    given = [
        chunk({"role": "assistant"}),
        chunk({}, finish="stop"),
        {"id": "c", "choices": [], "usage": {"total_tokens": 3}},
        {"error": {"message": MAIL}},
    ]

    assert all(new is old for new, old in zip(await collected(*given), given, strict=True))


async def test_stream_passes_plain_text_as_the_same_object():
    given = chunk({"content": "Hello you,"})

    assert (await collected(given))[0] is given


async def test_stream_gives_what_is_held_back_with_the_finish_reason():
    got = await collected(chunk({"content": f"x {MAIL[:7]}"}), chunk({}, finish="length"))

    assert got[-1]["choices"][0] == {
        "index": 0,
        "delta": {"content": MAIL[:7]},
        "finish_reason": "length",
    }


async def test_stream_gives_what_is_held_back_at_an_end_without_a_reason():
    got = await collected(chunk({"content": MAIL[:7]}), chunk(call(f'"{NAME[:4]}')))

    assert texts(got) == {(0, "content", 0): MAIL[:7], (0, "arguments", 0): f'"{NAME[:4]}'}
    assert got[-1]["id"] == "c"


async def test_stream_ends_reasoning_where_content_begins():
    got = await collected(
        chunk({"reasoning_content": f"so {MAIL[:3]}"}), chunk({"content": "Hello"})
    )

    assert got[1]["choices"][0]["delta"] == {"content": "Hello", "reasoning_content": MAIL[:3]}


async def test_stream_escapes_values_in_arguments():
    got = await collected(
        chunk(call("", name="find")),
        chunk(call(f'{{"who": "{NAME[:9]}')),
        chunk(call(f'{NAME[9:]}"}}')),
        chunk({}, finish="tool_calls"),
    )

    assert json.loads(texts(got)[0, "arguments", 0]) == {"who": 'Zebulon "Zeb" Quill'}
    assert got[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "find"


async def test_stream_never_holds_back_the_name_of_a_function():
    got = await collected(chunk(call("", name=f"ask_{MAIL}_{MAIL[:3]}")))

    function = got[0]["choices"][0]["delta"]["tool_calls"][0]["function"]
    assert function["name"] == f"ask_zeb@quill.example_{MAIL[:3]}"


async def test_stream_escapes_values_in_structured_output():
    restorer = AnswerRestorer(PSEUDONYMS, in_json=True)

    got = await collected(chunk({"content": f'["{NAME}"]'}), restorer=restorer)

    assert json.loads(texts(got)[0, "content", 0]) == ['Zebulon "Zeb" Quill']


async def test_stream_keeps_choices_apart():
    got = await collected(
        chunk({"content": MAIL[:6]}),
        chunk({"content": MAIL[:8]}, index=1),
        chunk({"content": MAIL[6:]}),
        chunk({"content": MAIL[8:]}, index=1),
    )

    assert texts(got) == {
        (0, "content", 0): "zeb@quill.example",
        (1, "content", 0): "zeb@quill.example",
    }


async def test_stream_of_completions_is_restored():
    def piece(text: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}

    got = await collected(piece(MAIL[:5]), piece(MAIL[5:] + " P"), piece("", "stop"))

    assert [one["choices"][0]["text"] for one in got] == ["", "zeb@quill.example ", "P"]


async def test_stream_drops_logprobs_only_where_there_is_something_to_restore():
    given = chunk({"content": "Hi"})
    given["choices"][0]["logprobs"] = {"content": [{"token": "Hi"}]}

    (dropped,) = await collected(given)
    (kept,) = await collected(given, restorer=AnswerRestorer(Pseudonyms(b"k")))

    assert dropped["choices"][0]["logprobs"] is None
    assert kept is given


async def test_stream_goes_on_in_the_next_attempt_where_the_first_one_broke():
    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield chunk({"content": f"To {MAIL[:9]}"})
        raise ConnectionError

    restorer = AnswerRestorer(PSEUDONYMS)
    first = restored(broken(), restorer)
    got = [await anext(first)]
    with pytest.raises(ConnectionError):
        await anext(first)

    got += await collected(chunk({"content": MAIL[9:]}), restorer=restorer)

    assert texts(got) == {(0, "content", 0): "To zeb@quill.example"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, True),
    ],
)
def test_answer_is_json_where_the_request_says_so(body: dict[str, Any], expected: bool) -> None:
    assert answers_in_json(body) is expected


pieces = st.sampled_from([NAME, MAIL, MAIL.lower(), NAME[:9], MAIL[:3], " ", "_", "PERSON"])
said = st.lists(pieces | st.text(max_size=5), max_size=6).map("".join)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(FIELDS), unique=True, max_size=2))
    answer = {name: draw(said) for name in FIELDS if name in names}
    if draw(st.booleans()):
        answer["arguments"] = json.dumps({"x": draw(said)})
    return answer


@st.composite
def streams(draw: st.DrawFn, answer: dict[str, str]) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = []
    for name, text in answer.items():
        places = draw(st.lists(st.integers(0, len(text)), max_size=8))
        for start, end in pairwise(sorted({0, *places, len(text)})):
            piece = text[start:end]
            chunks.append(chunk(call(piece) if name == "arguments" else {name: piece}))
    last = chunk({}, finish="stop")
    ends_alone: bool = draw(st.booleans())
    if chunks and not ends_alone:
        chunks[-1]["choices"][0]["finish_reason"] = "stop"
        return chunks
    return [*chunks, last] if draw(st.booleans()) else chunks


def whole(answer: dict[str, str]) -> dict[str, Any]:
    message: dict[str, Any] = {k: v for k, v in answer.items() if k != "arguments"}
    if "arguments" in answer:
        function = {"name": "f", "arguments": answer["arguments"]}
        message["tool_calls"] = [{"id": "1", "type": "function", "function": function}]
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@given(st.data(), answers())
async def test_stream_gives_the_same_as_the_whole_answer_for_every_cutting(
    data: st.DataObject, answer: dict[str, str]
) -> None:
    expected = texts([AnswerRestorer(PSEUDONYMS).feed(whole(answer))])

    assert texts(await collected(*data.draw(streams(answer)))) == expected
    if "arguments" in answer:
        json.loads(expected[0, "arguments", 0])
