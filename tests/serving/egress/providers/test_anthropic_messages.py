from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.egress.providers.anthropic_messages import AnthropicDialect, converted
from serving.egress.providers.provider import ProviderRejected
from serving.egress.providers.tool_names import ToolNames

GOLDEN = sorted((Path(__file__).parent / "golden" / "requests").glob("*.json"))
USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_converted_requests_are_as_written_down(path: Path) -> None:
    case = orjson.loads(path.read_bytes())
    dialect = AnthropicDialect(sampling=case.get("sampling", False))

    conversion = converted(case["openai"], model="there", dialect=dialect)

    assert conversion.body == case["anthropic"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_converted_leaves_the_request_as_it_was(path: Path) -> None:
    given = orjson.loads(path.read_bytes())["openai"]
    before = orjson.dumps(given)

    converted(given, model="there", dialect=AnthropicDialect())

    assert orjson.dumps(given) == before


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"stop": ["\n\n"]}, "stop"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "content_input_audio",
        ),
    ],
)
def test_converted_refuses_what_has_no_counterpart(given: dict[str, Any], code: str) -> None:
    with pytest.raises(ProviderRejected) as caught:
        converted({"messages": USER} | given, model="there", dialect=AnthropicDialect())

    assert caught.value.code == code


@pytest.mark.parametrize(
    "url",
    ["https://example.org/canary.png", "data:image/tiff;base64,AA==", "data:image/png,AA", ""],
)
def test_converted_refuses_an_image_that_is_not_given_by_its_bytes(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    messages = [{"role": "user", "content": [part]}]

    with pytest.raises(ProviderRejected) as caught:
        converted({"messages": messages}, model="there", dialect=AnthropicDialect())

    assert caught.value.code == "image_url"
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("named", "expected"), [({"max_tokens": 5}, 5), ({}, 300)])
def test_converted_takes_the_models_limit_where_the_request_names_none(
    named: dict[str, Any], expected: int
) -> None:
    given = {"messages": USER} | named

    body = converted(given, model="m", dialect=AnthropicDialect(), answer_tokens=300).body

    assert body["max_tokens"] == expected


def test_tool_names_come_back_as_they_were() -> None:
    long = "x" * 64
    names = ["a.b", "a_b", "a_b_2", long + ".y", long, "ok"]
    tools = ToolNames(names)

    there = [tools.there(name) for name in names]

    assert len(set(there)) == len(names)
    assert [tools.here(name) for name in there] == names
    assert there[1] == "a_b"
    assert there[4:] == [long, "ok"]
    assert tools.here("made_up") == "made_up"
