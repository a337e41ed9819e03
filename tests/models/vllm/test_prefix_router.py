"""Conversations keep their replica, tenants are apart, and a busy replica is passed over."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from models.engine import GenerationRequest, TokenizeRequest
from models.vllm.prefix_router import PrefixRouter, chosen, opening

SYSTEM = {"role": "system", "content": "Be brief."}


class FakeReplica:
    """A replica as the router sees it: a name and a number of slots."""

    def __init__(self, name: str, slots: int = 16) -> None:
        self.replica_id = ReplicaID(name, DeploymentID("Engine:m", "ringfence"))
        self.max_ongoing_requests = slots


REPLICAS: list[Any] = [FakeReplica(name) for name in "abcd"]


def chat(*texts: str, salt: str = "tenant", system: dict[str, str] = SYSTEM) -> GenerationRequest:
    """A conversation whose turns are the user's and the model's, one after the other."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return GenerationRequest("r", "chat", {"messages": [system, *turns], "cache_salt": salt})


def completion(prompt: Any) -> GenerationRequest:
    return GenerationRequest("r", "completion", {"prompt": prompt, "cache_salt": "tenant"})


def router(running: dict[str, int]) -> PrefixRouter:
    """A router that has so many calls running on each replica."""
    made = PrefixRouter(
        deployment_id=DeploymentID("Engine:m", "ringfence"),
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )
    made.initialize_state()
    for replica in REPLICAS:
        for _ in range(running.get(replica.replica_id.unique_id, 0)):
            made.on_send_request(replica.replica_id)
    return made


def ranks(request: object, **running: int) -> list[list[str]]:
    """Names of the replicas that would be tried, where so many calls are running."""
    return asyncio.run(_ranks(router(running), request))


async def _ranks(made: PrefixRouter, request: object) -> list[list[str]]:
    pending = PendingRequest(
        args=[request], kwargs={}, metadata=RequestMetadata("r", internal_request_id="i")
    )
    found = await made.choose_replicas(REPLICAS, pending)
    assert pending.routing_context.should_backoff  # Else Ray asks again without a pause.
    return [[replica.replica_id.unique_id for replica in rank] for rank in found]


def home_of(request: GenerationRequest) -> str:
    name: str = chosen(opening(request), REPLICAS).replica_id.unique_id
    return name


def test_later_turns_of_a_conversation_open_as_the_first() -> None:
    assert opening(chat("Hello!", "Hi.", "How are you?")) == opening(chat("Hello!"))


@pytest.mark.parametrize(
    "other",
    [
        chat("Bye!"),
        chat("Hello!", salt="another tenant"),
        chat("Hello!", system={"role": "system", "content": "Be long."}),
    ],
    ids=["question", "tenant", "system prompt"],
)
def test_other_conversations_open_otherwise(other: GenerationRequest) -> None:
    assert opening(other) != opening(chat("Hello!"))


@pytest.mark.parametrize(
    ("prompt", "longer"),
    [
        ("text" * 1000, "text" * 1001),
        (["text" * 1000, "second"], ["text" * 1001, "another"]),
        ([1, 2, 3] * 1000, [1, 2, 3] * 1001),
        ([[1, 2, 3] * 1000, [4]], [[1, 2, 3] * 1001]),
    ],
    ids=["text", "texts", "token ids", "lists of token ids"],
)
def test_completions_open_with_the_beginning_of_their_first_prompt(
    prompt: Any, longer: Any
) -> None:
    assert opening(completion(longer)) == opening(completion(prompt))
    assert opening(completion("other")) != opening(completion(prompt))


@pytest.mark.parametrize("prompt", ["", []])
def test_empty_prompt_has_an_opening(prompt: Any) -> None:
    assert opening(completion(prompt))


def test_conversations_spread_over_the_replicas() -> None:
    homes = Counter(
        chosen(opening(chat(f"Question {i}")), REPLICAS).replica_id.unique_id for i in range(400)
    )
    assert set(homes) == set("abcd")
    assert max(homes.values()) < 140  # 100 each; the standard deviation is 9.


def test_replica_that_leaves_moves_its_own_conversations_only() -> None:
    keys = [opening(chat(f"Question {i}")) for i in range(200)]
    left = REPLICAS[:3]
    moved = [key for key in keys if chosen(key, REPLICAS) is not chosen(key, left)]
    assert moved
    assert all(chosen(key, REPLICAS) is REPLICAS[3] for key in moved)


def test_conversation_goes_home_first_and_anywhere_then() -> None:
    first, second, last = ranks(chat("Hello!", "Hi.", "And?"))
    assert first == [home_of(chat("Hello!"))]
    assert len(second) == 1
    assert sorted(last) == list("abcd")


@pytest.mark.parametrize(("ahead", "passed_over"), [(4, False), (5, True)])
def test_home_that_is_much_busier_is_passed_over(*, ahead: int, passed_over: bool) -> None:
    home = home_of(chat("Hello!"))
    running = dict.fromkeys("abcd", 3) | {home: 3 + ahead}
    assert (len(ranks(chat("Hello!"), **running)) == 2) == passed_over


async def test_calls_that_have_ended_count_no_more() -> None:
    home = home_of(chat("Hello!"))
    made = router({home: 5})
    (replica,) = (r for r in REPLICAS if r.replica_id.unique_id == home)
    made.on_request_completed(replica.replica_id, "i")
    assert (await _ranks(made, chat("Hello!")))[0] == [home]


async def test_call_that_was_never_sent_is_not_counted_below_zero() -> None:
    home = home_of(chat("Hello!"))
    made = router({})
    (replica,) = (r for r in REPLICAS if r.replica_id.unique_id == home)
    made.on_request_completed(replica.replica_id, "i")
    for _ in range(5):
        made.on_send_request(replica.replica_id)
    assert len(await _ranks(made, chat("Hello!"))) == 2


def test_calls_that_meet_no_prefix_go_to_the_less_busy_of_two() -> None:
    firsts = [ranks(TokenizeRequest(prompt="Hello!"), a=9, b=9, c=9)[0] for _ in range(50)]
    assert ["d"] in firsts
    assert all(len(first) == 1 for first in firsts)
