from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.egress.policy.capabilities import Capabilities, Facts, why_not

PLAIN = Capabilities(context_tokens=1000, max_output_tokens=500, token_margin=0.2)
ABLE = Capabilities(
    context_tokens=1000, max_output_tokens=500, tools=True, parallel_tools=True, schema=True,
    json_object=True, vision=True, logprobs=True, n=8, completions=True, stops=8, seed=True,
    continuation=True, token_margin=0.2,
)  # fmt: skip
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def chat(**rest: Any) -> Facts:
    body = {"messages": [{"role": "user", "content": "x"}]} | rest
    return Facts.of("chat", body, prompt_tokens=100)


@pytest.mark.parametrize(
    ("facts", "lacks", "reason"),
    [
        (chat(tools=[TOOL]), {"tools": False}, "tools"),
        (
            chat(messages=[{"role": "tool", "tool_call_id": "1", "content": "x"}]),
            {"tools": False},
            "tools",
        ),
        (
            chat(tools=[TOOL], parallel_tool_calls=False),
            {"parallel_tools": False},
            "parallel_tools",
        ),
        (chat(response_format={"type": "json_schema"}), {"schema": False}, "schema"),
        (chat(response_format={"type": "json_object"}), {"json_object": False}, "json_object"),
        (chat(messages=[{"role": "user", "content": [IMAGE]}]), {"vision": False}, "vision"),
        (chat(logprobs=True), {"logprobs": False}, "logprobs"),
        (chat(n=9), {}, "n"),
        (chat(stop=["a"] * 9), {}, "stop"),
        (chat(stop="\n"), {"blank_stops": False}, "stop"),
        (chat(seed=0), {"seed": False}, "seed"),
        (chat(max_tokens=501), {}, "output_tokens"),
        (Facts("completion", 10), {"completions": False}, "kind"),
        (Facts("chat", 10), {"chat": False}, "kind"),
        (Facts("chat", 10, continuation=True), {"continuation": False}, "continuation"),
    ],
)
def test_why_not_names_what_a_model_lacks(facts: Facts, lacks: dict[str, Any], reason: str) -> None:
    assert why_not(facts, replace(ABLE, **lacks)) == reason


def test_why_not_finds_nothing_for_a_plain_request() -> None:
    assert why_not(chat(stop=["a"], max_tokens=500), PLAIN) is None


def test_why_not_leaves_a_margin_for_another_tokenizer() -> None:
    facts = Facts("chat", prompt_tokens=750, answer_tokens=100)

    assert why_not(facts, PLAIN) is None
    assert why_not(replace(facts, prompt_tokens=751), PLAIN) == "context_length"


@given(st.integers(1, 2000), st.one_of(st.none(), st.integers(1, 2000)))
def test_why_not_lets_nothing_through_that_cannot_fit(
    prompt_tokens: int, answer_tokens: int | None
) -> None:
    if why_not(Facts("chat", prompt_tokens, answer_tokens), PLAIN) is None:
        assert prompt_tokens + (answer_tokens or 1) <= PLAIN.context_tokens


def test_facts_count_no_false_or_null_field() -> None:
    body = {
        "messages": [{"role": "user", "content": None}], "logprobs": False, "n": None,
        "stop": None, "seed": None, "tools": None, "response_format": None,
    }  # fmt: skip

    assert Facts.of("chat", body, prompt_tokens=1) == Facts("chat", 1)


def test_facts_of_a_completion_count_its_logprobs_and_best_of() -> None:
    facts = Facts.of("completion", {"prompt": "x", "logprobs": 0, "best_of": 3}, prompt_tokens=1)

    assert facts == Facts("completion", 1, logprobs=True, n=3)
