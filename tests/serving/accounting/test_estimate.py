"""The upper bound of a request's usage: never below what an engine really uses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalog import ModelSpec, Price, Simulation
from models.engine import EngineError, GenerationRequest, Kind, Usage
from models.simulated.engine import SimulatedEngine
from models.tokens.token_counter import SimulatedCounter, upper_bound
from serving.accounting.estimate import (
    DEFAULT_COMPLETION_TOKENS,
    UNKNOWN_CONTEXT_TOKENS,
    TokenBudget,
)
from serving.accounting.pricing import Tariff

CONTEXT = 100
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


def chat(**fields: Any) -> TokenBudget:
    return TokenBudget.of("chat", CHAT | fields, CONTEXT)


def completion(**fields: Any) -> TokenBudget:
    return TokenBudget.of("completion", {"prompt": "Hi"} | fields, CONTEXT)


def test_chat_without_a_bound_may_fill_the_context() -> None:
    assert chat().completion_tokens(30) == CONTEXT - 30


def test_completion_without_a_bound_has_openai_s_default() -> None:
    assert completion().completion_tokens(30) == DEFAULT_COMPLETION_TOKENS == 16
    assert completion().completion_tokens(CONTEXT - 3) == 3


@pytest.mark.parametrize("token_budget", [chat(max_tokens=9), completion(max_tokens=9)])
def test_bound_of_the_client_holds_while_it_fits(token_budget: TokenBudget) -> None:
    assert [token_budget.completion_tokens(n) for n in (0, 91, 95, 100, 500)] == [9, 9, 5, 0, 0]


def test_newer_name_of_the_bound_goes_before_the_older() -> None:
    assert chat(max_completion_tokens=7, max_tokens=9).completion_tokens(0) == 7
    assert chat(max_completion_tokens=9, max_tokens=7).completion_tokens(0) == 9
    assert chat(max_completion_tokens=None, max_tokens=9).completion_tokens(0) == 9


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (5, 5)])
def test_every_choice_may_have_as_much(n: int | None, choices: int) -> None:
    assert chat(n=n, max_tokens=9).completion_tokens(10) == choices * 9
    assert chat(n=n).completion_tokens(10) == choices * 90


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("Hi", 1), (["Hi"], 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
    ids=["text", "list of one", "texts", "ids", "lists of ids"],
)
def test_every_prompt_has_its_choices(prompt: Any, prompts: int) -> None:
    token_budget = completion(prompt=prompt, n=2, max_tokens=9)
    assert (token_budget.prompts, token_budget.choices) == (prompts, 2 * prompts)
    assert token_budget.completion_tokens(3) == 2 * prompts * 9


def test_one_of_several_prompts_may_be_short_however_long_they_are_together() -> None:
    assert completion(prompt=["long", "b"], max_tokens=90).completion_tokens(99) == 2 * 90


@pytest.mark.parametrize("context", [None, 0])
def test_unknown_context_is_taken_to_be_large(context: int | None) -> None:
    assert (
        TokenBudget.of("chat", CHAT, context).completion_tokens(72) == UNKNOWN_CONTEXT_TOKENS - 72
    )


def test_texts_to_embed_have_no_answer() -> None:
    token_budget = TokenBudget.of_embedding(3, CONTEXT)
    assert token_budget.completion_tokens(50) == 0
    assert token_budget.plausible(Usage(3 * CONTEXT, 0))
    assert not token_budget.plausible(Usage(3 * CONTEXT + 1, 0))
    assert not token_budget.plausible(Usage(1, 1))


@pytest.mark.parametrize(
    ("usage", "plausible"),
    [
        (Usage(0, 0), True),
        (Usage(2 * CONTEXT, 6 * CONTEXT, 2 * CONTEXT), True),
        (Usage(2 * CONTEXT + 1, 0), False),
        (Usage(0, 6 * CONTEXT + 1), False),
        (Usage(5, 1, 6), False),
        (Usage(5, 1, -1), False),
        (Usage(-1, 1), False),
        (Usage(-1, 1, -1), False),
        (Usage(1, -1), False),
    ],
    ids=str,
)
def test_usage_that_no_engine_can_have_is_told_apart(usage: Usage, *, plausible: bool) -> None:
    assert completion(prompt=["a", "b"], n=3).plausible(usage) is plausible


def seen(
    token_budget: TokenBudget, events: int, *, interval: int = 1, prompt_tokens: int = 10
) -> int:
    usage = token_budget.seen(events=events, interval=interval, prompt_tokens=prompt_tokens)
    assert (usage.prompt_tokens, usage.cached_tokens) == (prompt_tokens, 0)
    return usage.completion_tokens


def test_chat_begins_with_an_event_without_a_token_for_each_choice() -> None:
    assert [seen(chat(), events) for events in (0, 1, 2, 5)] == [0, 0, 1, 4]
    assert [seen(chat(n=3), events) for events in (1, 3, 4, 9)] == [0, 0, 1, 6]


def test_completion_begins_with_a_token() -> None:
    assert [seen(completion(), events) for events in (0, 1, 5)] == [0, 1, 5]


def test_events_but_the_first_of_a_choice_carry_an_interval_of_tokens() -> None:
    assert [seen(chat(), events, interval=8) for events in (1, 2, 3, 4)] == [0, 1, 9, 17]
    two = completion(prompt=["a", "b"], max_tokens=50)
    assert [seen(two, events, interval=8) for events in (1, 2, 3)] == [1, 2, 10]


def test_no_more_is_seen_than_there_could_be() -> None:
    assert seen(completion(max_tokens=5), 99) == 5
    assert seen(chat(), 99, interval=64, prompt_tokens=40) == CONTEXT - 40


SPEC = ModelSpec(
    id="m",
    engine="simulated",
    context_tokens=300,
    max_ongoing_requests=64,
    simulation=Simulation(step_base_ms=0, step_per_sequence_ms=0, prefill_ms_per_token=0),
)
TEXT = st.text("ab ü", min_size=1, max_size=40)
IDS = st.lists(st.integers(0, 255), min_size=1, max_size=40)
PROMPT = TEXT | IDS | st.lists(TEXT, min_size=1, max_size=3) | st.lists(IDS, min_size=1, max_size=3)
BOUND = st.none() | st.integers(1, 150)
SHARED: dict[str, Any] = {
    "n": st.none() | st.integers(1, 3),
    "max_tokens": BOUND,
    "ignore_eos": st.booleans(),
    "seed": st.integers(0, 5),
    "stop": st.none() | st.just("."),
}
CHATS = st.fixed_dictionaries(
    {
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": TEXT}),
            min_size=1,
            max_size=2,
        )
    },
    optional=SHARED | {"max_completion_tokens": BOUND},
)
COMPLETIONS = st.fixed_dictionaries({"prompt": PROMPT}, optional=SHARED)
REQUESTS = st.tuples(st.just("chat"), CHATS) | st.tuples(st.just("completion"), COMPLETIONS)


async def run(kind: Kind, body: dict[str, Any], *, interval: int) -> tuple[int, Usage] | None:
    """Return events and usage of an answer; None if the engine refuses."""
    request = GenerationRequest("r", kind, body | {"model": "m"}, stream_interval=interval)
    events = 0
    try:
        async for item in SimulatedEngine(SPEC, sleep=_no_time).generate(request):
            if isinstance(item, Usage):
                return events, item
            events += item.count(b"\n\n")
    except EngineError:
        return None
    raise AssertionError("the engine told no usage")


async def _no_time(_: float) -> None:
    await asyncio.sleep(0)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.sampled_from([1, 4, 64]))
async def test_engine_uses_no_more_than_the_bound(
    request: tuple[Kind, dict[str, Any]], interval: int
) -> None:
    kind, body = request
    ended = await run(kind, body, interval=interval)
    if ended is None:
        return
    events, usage = ended
    counter = SimulatedCounter(SPEC)
    token_budget = TokenBudget.of(kind, body, counter.context_tokens)
    prompt_tokens = await counter.count(kind, body)
    assert prompt_tokens is not None
    most = token_budget.completion_tokens(prompt_tokens)
    assert usage.prompt_tokens == prompt_tokens
    assert usage.completion_tokens <= most
    assert token_budget.plausible(usage)
    # Of an answer that is cut short at its very end, about as much is seen; at most what is said.
    watched = token_budget.seen(events=events, interval=interval, prompt_tokens=prompt_tokens)
    assert watched.completion_tokens <= most


@settings(max_examples=30, deadline=None)
@given(REQUESTS)
async def test_every_token_that_was_sent_alone_is_seen(
    request: tuple[Kind, dict[str, Any]],
) -> None:
    kind, body = request
    # A stop text takes tokens back that were made.
    ended = await run(kind, {name: body[name] for name in body if name != "stop"}, interval=1)
    if ended is None:
        return
    events, usage = ended
    token_budget = TokenBudget.of(kind, body, SPEC.context_tokens)
    watched = token_budget.seen(events=events, interval=1, prompt_tokens=usage.prompt_tokens)
    assert watched.completion_tokens == usage.completion_tokens


async def test_cost_is_covered_too_where_the_prompt_is_only_bounded() -> None:
    """Answers cost more than prompts, so a bound must not reduce the room for the answer."""
    body = CHAT | {"max_tokens": 200}
    ended = await run("chat", body | {"ignore_eos": True}, interval=1)
    assert ended is not None
    token_budget = TokenBudget.of("chat", body, SPEC.context_tokens)
    price = Price.model_validate({"input_per_million": "1", "output_per_million": "5"})
    tariff = Tariff.of(SPEC.model_copy(update={"price": price}))
    most = token_budget.most_used(None, lambda: upper_bound("chat", body))
    assert tariff.cost_nanos(ended[1], seconds=0) <= tariff.most_nanos(most, seconds=0)
    assert most.prompt_tokens <= token_budget.context_tokens
