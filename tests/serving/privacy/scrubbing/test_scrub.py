import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from serving.domain.languages import LANGUAGES
from serving.privacy.policy import PrivacyPolicy
from serving.privacy.pseudonyms import Pseudonyms, conversation_key
from serving.privacy.refusals import Blocked, Unread, Unscrubbable
from serving.privacy.scrubbing.pseudonym_variants import Forms
from serving.privacy.scrubbing.restore import Restorer
from serving.privacy.scrubbing.scrub import Scrubbed, scrub
from serving.privacy.spans import Detector, DetectorUnavailable, EntityType, Span
from tests.serving.privacy.known_words import Answering, Down, KnownWords, Stuck

KEY = conversation_key(SecretStr("s" * 64), "acme", "c1")
NAME = "Zebulon Quill"
WORDS: dict[str, EntityType] = {
    NAME: "PERSON",
    "zeb@quill.example": "EMAIL",
    "4111111111111111": "CARD",
    "hunter2": "SECRET",
}


async def scrubbed(
    body: dict[str, Any], detector: Detector | None = None, **actions: Any
) -> Scrubbed:
    detector = detector or KnownWords(WORDS)
    chosen: Any = actions
    return await scrub(body, detector, policy=PrivacyPolicy.of(chosen), key=KEY)


def restored(told: Any, pseudonyms: Pseudonyms) -> Any:
    restorer = Restorer(Forms(pseudonyms.values), in_json=True)
    return json.loads(restorer.feed(json.dumps(told)) + restorer.flush())


def chat(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def tool(**function: Any) -> dict[str, Any]:
    return chat(tools=[{"type": "function", "function": {"name": "find", **function}}])


def schema(**fields: Any) -> dict[str, Any]:
    return tool(parameters={"type": "object", "properties": {"who": fields}})


def called(arguments: str) -> dict[str, Any]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find", "arguments": arguments},
    }
    body = chat()
    body["messages"].append({"role": "assistant", "content": None, "tool_calls": [call]})
    return body


def message(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}, fields]}


def answer_format(name: str) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object", "title": name}},
    }


POSITIONS = {
    "system": message(role="system", content=f"You serve {NAME}."),
    "developer": message(role="developer", content=f"You serve {NAME}."),
    "user": chat(f"I am {NAME}."),
    "assistant": message(role="assistant", content=f"Dear {NAME}"),
    "tool result": message(role="tool", tool_call_id="c", content=f'{{"name": "{NAME}"}}'),
    "content part": chat([{"type": "text", "text": f"I am {NAME}."}]),
    "refusal part": message(role="assistant", content=[{"type": "refusal", "refusal": NAME}]),
    "file part with text": chat([{"type": "file", "file": {"filename": f"{NAME}.txt"}}]),
    "message name": message(role="user", name=NAME, content="Hi"),
    "reasoning_content": message(role="assistant", content="Hi", reasoning_content=NAME),
    "reasoning": message(role="assistant", content="Hi", reasoning=NAME),
    "refusal": message(role="assistant", content=None, refusal=f"Not for {NAME}."),
    "tool call id": message(role="tool", tool_call_id=NAME, content="Hi"),
    "tool description": tool(description=f"Finds {NAME}."),
    "schema description": schema(type="string", description=f"Like {NAME}."),
    "schema title": schema(type="string", title=NAME),
    "schema enum": schema(enum=[NAME, "nobody"]),
    "schema const": schema(const=NAME),
    "schema default": schema(default={"deep": [NAME]}),
    "schema examples": schema(examples=[NAME]),
    "schema property": tool(parameters={"type": "object", "properties": {NAME: {}}}),
    "schema required": tool(parameters={"type": "object", "required": [NAME]}),
    "schema reference": tool(parameters={"$defs": {NAME: {}}, "$ref": f"#/$defs/{NAME}"}),
    "odd tool name": chat(tools=[{"type": "function", "function": {"name": f"ask {NAME}"}}]),
    "arguments": called(json.dumps({"who": NAME})),
    "argument names": called(json.dumps({NAME: 1})),
    "escaped arguments": called(f'{{"who": "\\u005aebulon Quill", "n": {{"x": ["{NAME}"]}}}}'),
    "arguments that are no JSON": called(f'{{"who": "{NAME}'),
    "escapes in a part of JSON": called('{"who": "\\u005aebulon Quil\\u006c", "then": "'),
    "escapes in prose": chat('The data: {"who": "\\u005aebulon Quill"}. Who is it?'),
    "arguments with JSON inside": called(json.dumps({"body": json.dumps({"who": NAME})})),
    "user field": chat(user=NAME),
    "metadata value": chat(metadata={"customer": NAME}),
    "metadata key": chat(metadata={NAME: "customer"}),
    "stop": chat(stop=[f"{NAME}:"]),
    "stop text": chat(stop=NAME),
    "prediction": chat(prediction={"type": "content", "content": f"Dear {NAME}"}),
    "response format": chat(response_format=answer_format(NAME)),
    "prompt": {"model": "m", "prompt": f"I am {NAME}."},
    "prompt array": {"model": "m", "prompt": ["Hi", f"I am {NAME}."]},
    "suffix": {"model": "m", "prompt": "Hi", "suffix": NAME},
    "embeddings input": {"model": "e", "input": f"I am {NAME}."},
    "embeddings inputs": {"model": "e", "input": ["Hi", NAME]},
    "unknown field": chat(brand_new={"nested": [{"thing": NAME}]}),
    "unknown key": chat(brand_new={NAME: True}),
    "text where a number belongs": chat(seed=NAME),
}


@pytest.mark.parametrize("where", POSITIONS)
async def test_scrub_leaves_no_name_at(where: str) -> None:
    told = json.dumps((await scrubbed(POSITIONS[where])).body)

    assert "ebulon" not in told
    assert "Quill" not in told


@pytest.mark.parametrize("where", POSITIONS)
async def test_scrub_can_be_undone_at(where: str) -> None:
    result = await scrubbed(POSITIONS[where])

    def plain(value: Any) -> Any:
        told = json.dumps(value).replace("\\\\u005a", "Z").replace("\\\\u006c", "l")
        return json.loads(told)

    if where != "tool call id":  # Only sameness matters there.
        assert plain(restored(result.body, result.pseudonyms)) == plain(
            _without_ids(POSITIONS[where], result.body)
        )


def _without_ids(body: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Copy a body with the ids of another one."""
    body = deepcopy(body)
    for mine, other in zip(body.get("messages", ()), like.get("messages", ()), strict=True):
        if "tool_call_id" in mine:
            mine["tool_call_id"] = other["tool_call_id"]
        for call, twin in zip(mine.get("tool_calls", ()), other.get("tool_calls", ()), strict=True):
            call["id"] = twin["id"]
    return body


async def test_scrub_leaves_a_request_without_personal_data_as_it_is() -> None:
    body = schema(type="integer", minimum=0, maximum=2147483647, description="How many")
    body |= {
        "temperature": 0.7,
        "seed": 123456789,
        "logit_bias": {"50256": -100},
        "stream_options": {"include_usage": True},
        "tool_choice": {"type": "function", "function": {"name": "find"}},
    }
    given = deepcopy(body)

    result = await scrubbed(body)

    assert result.body == given
    assert body == given
    assert result.counts == {}


async def test_scrub_never_shows_the_protocols_own_words_to_a_detector() -> None:
    detector = KnownWords(WORDS)

    await scrubbed(called('{"who": "x"}'), detector)

    assert detector.calls == [["Hi", "who", "x", '{"who": x}']]


async def test_scrub_asks_the_detector_once_for_all_texts() -> None:
    detector = KnownWords(WORDS)
    body = POSITIONS["schema default"] | POSITIONS["metadata key"] | {"user": NAME}

    await scrubbed(body, detector)

    assert len(detector.calls) == 1


async def test_scrub_counts_values_by_type() -> None:
    result = await scrubbed(chat(f"{NAME}, {NAME} and zeb@quill.example"))

    assert result.counts == {"PERSON": 2, "EMAIL": 1}


async def test_scrub_gives_one_value_the_same_pseudonym_everywhere() -> None:
    result = await scrubbed(chat(f"I am {NAME}.", user=NAME, metadata={"who": NAME}))

    name = result.body["user"]
    assert result.body["metadata"]["who"] == name
    assert result.body["messages"][0]["content"] == f"I am {name}."


async def test_scrub_keeps_ids_of_calls_and_results_equal() -> None:
    body = called("{}")
    body["messages"].append({"role": "tool", "tool_call_id": "call_1", "content": "4"})

    _, call, result = (await scrubbed(body)).body["messages"]

    assert call["tool_calls"][0]["id"] == result["tool_call_id"] != "call_1"


async def test_scrub_keeps_the_form_of_arguments() -> None:
    arguments = '{ "n": 1.50,\t"who":"Zebulon Quill", "caf\\u00e9": [true, null, 1e5] }'

    result = await scrubbed(called(arguments))

    name = result.pseudonyms.of(NAME, "PERSON")
    written = result.body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert written == arguments.replace(NAME, name)


async def test_scrub_keeps_the_key_of_a_schema_and_of_arguments_the_same() -> None:
    body = called(json.dumps({NAME: 1}))
    body |= tool(parameters={"properties": {NAME: {}}, "required": [NAME]}) | {
        "messages": body["messages"]
    }

    result = (await scrubbed(body)).body

    parameters = result["tools"][0]["function"]["parameters"]
    arguments = json.loads(result["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert list(parameters["properties"]) == parameters["required"] == list(arguments)


async def test_scrub_replaces_a_number_by_a_pseudonym_in_a_string() -> None:
    result = await scrubbed(called('{"card": 4111111111111111, "cents": 250}'))

    card = result.pseudonyms.of("4111111111111111", "CARD")
    arguments = result.body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == f'{{"card": "{card}", "cents": 250}}'


async def test_scrub_restores_what_escapes_in_prose_mean() -> None:
    result = await scrubbed(chat('{"who": "\\u005aebulon Quill"} is whom?'))

    assert list(result.pseudonyms.values.values()) == [NAME]


async def test_scrub_restores_characters_of_two_escapes_whole() -> None:
    class Everything(KnownWords):
        def find(self, text: str) -> list[Span]:
            return [Span(0, len(text), "ADDRESS")] if "codes" in text else []

    result = await scrubbed(chat("codes: \\ud83d\\ude00 \\ud83d"), Everything(WORDS))

    assert list(result.pseudonyms.values.values()) == ["codes: \U0001f600 \ufffd"]


@pytest.mark.parametrize("number", [4111111111111111, 4111111111111111.0])
async def test_scrub_replaces_a_number_in_the_body(number: float) -> None:
    result = await scrubbed(schema(default=number))

    assert "4111" not in json.dumps(result.body)


async def test_scrub_replaces_all_of_a_number_that_is_personal_in_part() -> None:
    detector = KnownWords({"4111": "CARD"})

    result = await scrubbed(schema(default=4111222233334444), detector)

    assert list(result.pseudonyms.values.values()) == ["4111222233334444"]


async def test_scrub_keeps_references_of_a_schema_together() -> None:
    class Alone(KnownWords):
        def find(self, text: str) -> list[Span]:
            return super().find(text) if text == NAME else []

    body = tool(parameters={"$defs": {NAME: {}}, "$ref": f"#/$defs/{NAME}"})

    result = await scrubbed(body, Alone({NAME: "CUSTOM"}))

    parameters = result.body["tools"][0]["function"]["parameters"]
    assert [parameters["$ref"]] == [f"#/$defs/{name}" for name in parameters["$defs"]]


async def test_scrub_finds_a_value_that_two_parts_cut() -> None:
    parts = [
        {"type": "text", "text": "Write to zeb@qui"},
        {"type": "text", "text": "ll.example now."},
    ]

    result = await scrubbed(chat(parts))

    name = result.pseudonyms.of("zeb@quill.example", "EMAIL")
    texts = [part["text"] for part in result.body["messages"][0]["content"]]
    assert texts == [f"Write to {name}", " now."]
    assert result.counts == {"EMAIL": 1}


async def test_scrub_does_not_join_values_that_each_part_has_whole() -> None:
    class Greedy(KnownWords):
        def find(self, text: str) -> list[Span]:
            spans = super().find(text)
            return [Span(0, len(text), "PERSON", 1.0)] if len(spans) == 2 else spans

    parts = [{"type": "text", "text": NAME}, {"type": "text", "text": "zeb@quill.example"}]

    result = await scrubbed(chat(parts), Greedy(WORDS))

    texts = [part["text"] for part in result.body["messages"][0]["content"]]
    assert [text.partition("_")[0] for text in texts] == ["PERSON", "EMAIL"]


async def test_scrub_replaces_a_name_where_the_detector_missed_it() -> None:
    class Once(KnownWords):
        def find(self, text: str) -> list[Span]:
            return super().find(text) if text.startswith("I am") else []

    result = await scrubbed(chat(f"I am {NAME}.", stop=[NAME, f"{NAME}s"]), Once(WORDS))

    assert result.body["stop"] == [result.pseudonyms.of(NAME, "PERSON"), f"{NAME}s"]


async def test_scrub_replaces_text_that_looks_like_a_pseudonym_and_gives_it_back() -> None:
    result = await scrubbed(chat("What is PERSON_7KQ2M9XD?"))

    assert "PERSON_7KQ2M9XD" not in json.dumps(result.body)
    assert result.counts == {}
    assert restored(result.body, result.pseudonyms) == chat("What is PERSON_7KQ2M9XD?")


@pytest.mark.parametrize("change", [str, str.lower, lambda name: name.replace("_", " ")])
async def test_scrub_does_not_reveal_a_value_to_a_pseudonym_that_was_written(change: Any) -> None:
    written = change(Pseudonyms(KEY).of(NAME, "PERSON"))
    body = chat(f"{NAME} said {written}")

    result = await scrubbed(body)

    assert restored(result.body, result.pseudonyms) == body


async def test_scrub_takes_a_look_alike_as_one_value_whatever_is_found_inside() -> None:
    detector = KnownWords({"7KQ2M9XD": "SECRET"})

    result = await scrubbed(chat("What is PERSON_7KQ2M9XD?"), detector)

    assert restored(result.body, result.pseudonyms) == chat("What is PERSON_7KQ2M9XD?")


async def test_scrub_takes_a_value_that_holds_a_look_alike_whole() -> None:
    detector = KnownWords({"PERSON_7KQ2M9XD@quill.example": "EMAIL"})
    body = chat("Write PERSON_7KQ2M9XD@quill.example")

    result = await scrubbed(body, detector)

    assert result.counts == {"EMAIL": 1}
    assert restored(result.body, result.pseudonyms) == body


async def test_scrub_knows_a_secret_again_by_its_pseudonym_in_the_history() -> None:
    kept = Pseudonyms(KEY).of("hunter2", "SECRET")

    result = await scrubbed(chat(f"hunter2, that is {kept}"))

    assert result.body["messages"][0]["content"] == f"{kept}, that is {kept}"


async def test_scrub_keeps_common_words_behind_a_label_as_they_are() -> None:
    text = "The person attended; IP addresses, card detected: IP_ADDRESSES, URL_PARAMETERS."

    assert (await scrubbed(chat(text))).body == chat(text)


async def test_scrub_refuses_what_the_policy_blocks_and_names_types_only() -> None:
    with pytest.raises(Blocked) as caught:
        await scrubbed(chat(f"{NAME} 4111111111111111"), CARD="block")

    assert caught.value.entities == ("CARD",)
    assert "4111" not in str(caught.value)


UNSCRUBBABLE = {
    "image": chat([{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]),
    "image in a tool's result": message(
        role="tool", tool_call_id="c", content=[{"type": "input_image", "image_url": "x"}]
    ),
    "sound": chat([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    "file data": chat([{"type": "file", "file": {"file_data": "AAAA"}}]),
    "file id": chat([{"type": "file", "file": {"file_id": "file-1"}}]),
    "unknown part": chat([{"type": "hologram", "text": "Hi"}]),
    "part without a type": chat([{"text": "Hi"}]),
    "data in text": chat("![x](data:image/png;base64,AAAA)"),
    "base64 without a name": chat(images=["QUJD" * 250]),
    "sound to be made": chat(audio={"voice": "alloy", "format": "wav"}),
    "sound made before": message(role="assistant", audio={"id": "audio_1"}),
    "token ids": {"model": "m", "prompt": [1, 2]},
    "lists of token ids": {"model": "m", "prompt": [[1, 2], [3]]},
    "token ids to embed": {"model": "e", "input": [1, 2]},
    "text as a token": chat(logit_bias={NAME: 1}),
    "long token": chat(logit_bias={"4111111111111111": 1}),
    "bytes": chat(b"Hi"),
}


@pytest.mark.parametrize("what", UNSCRUBBABLE)
async def test_scrub_refuses(what: str) -> None:
    with pytest.raises(Unscrubbable):
        await scrubbed(UNSCRUBBABLE[what])


async def test_scrub_refuses_a_body_that_is_nested_too_deeply() -> None:
    deep: Any = NAME
    for _ in range(500):
        deep = [deep]

    with pytest.raises(Unscrubbable):
        await scrubbed(chat(metadata=deep))


async def test_scrub_refuses_keys_that_become_the_same() -> None:
    with pytest.raises(Unscrubbable):
        await scrubbed(
            chat(metadata={NAME: 1, NAME.upper(): 2}),
            KnownWords({NAME: "PERSON", NAME.upper(): "PERSON"}),
        )


BROKEN = [
    Down(),
    Answering(),
    Answering([], [], []),
    Answering([Span(0, 99, "PERSON")]),
    Answering([Span(1, 1, "PERSON")]),
]


@pytest.mark.parametrize("detector", BROKEN)
async def test_scrub_fails_with_a_detector_that_fails(detector: Detector) -> None:
    with pytest.raises(DetectorUnavailable):
        await scrubbed(chat(), detector)


async def test_scrub_waits_for_a_detector_no_longer_than_it_may() -> None:
    with pytest.raises(DetectorUnavailable):
        await scrub(chat(), Stuck(), policy=PrivacyPolicy(), key=KEY, timeout_s=0.01)


async def test_scrubbed_does_not_print_the_body() -> None:
    assert "Hi" not in repr(await scrubbed(chat()))


ANY_LANGUAGE = PrivacyPolicy.of({}, LANGUAGES)
LATIN = st.text(st.characters(max_codepoint=0x24F), max_size=20)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | LATIN
    | st.sampled_from([NAME, f"x {NAME} y", "zeb@quill.example", 4111111111111111, '{"a": 1}']),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(LATIN | st.just(NAME), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values, json_values)
async def test_scrub_lets_no_value_out_of_any_json(value: Any, argument: Any) -> None:
    body = called(json.dumps(argument)) | {"metadata": value, "anything": {"new": value}}

    result = await scrub(body, KnownWords(WORDS), policy=ANY_LANGUAGE, key=KEY)

    told = json.dumps(result.body, ensure_ascii=False)
    assert not any(word in told for word in WORDS)


@settings(deadline=None)
@given(json_values)
async def test_scrub_keeps_arguments_valid_json(argument: Any) -> None:
    body = called(json.dumps([argument]))
    result = await scrub(body, KnownWords(WORDS), policy=ANY_LANGUAGE, key=KEY)

    json.loads(result.body["messages"][1]["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize("text", ["Ask 李畅.", "Gestern traf ich sie lange im Büro."])
async def test_scrub_refuses_what_nobody_reads(text: str) -> None:
    with pytest.raises(Unread):
        await scrubbed(chat(text))


async def test_scrub_asks_no_detector_about_a_script_that_it_does_not_know() -> None:
    detector = KnownWords({"李畅": "PERSON"})
    with pytest.raises(Unread):
        await scrubbed(chat("Ask 李畅 now."), detector)

    assert detector.calls == []


async def test_scrub_tells_languages_without_the_names_in_them() -> None:
    name = "María de los Ángeles Fernández de la Cruz"
    result = await scrubbed(chat(f"Ask {name}."), KnownWords({name: "PERSON"}))

    assert result.counts == {"PERSON": 1}


async def test_scrub_lets_foreign_text_leave_that_the_policy_allows() -> None:
    policy = PrivacyPolicy.of({}, ["zh"])
    result = await scrub(chat("Ask 李畅 now."), KnownWords({}), policy=policy, key=KEY)

    assert result.body == chat("Ask 李畅 now.")


async def test_scrub_reads_letters_that_json_writes_as_two_codes() -> None:
    bold = "\U0001d419\U0001d41e\U0001d41b"
    text = f"The row is {json.dumps({'to': bold})}, I think."
    result = await scrubbed(chat(text), KnownWords({bold: "PERSON"}))

    [(name, value)] = result.pseudonyms.values.items()
    assert value == bold
    assert result.body == chat(f'The row is {{"to": "{name}"}}, I think.')
