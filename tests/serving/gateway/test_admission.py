"""Limits, budgets, the queue and deadlines as clients see them, on every endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import select

from models.catalog import ModelSpec
from models.engine import EngineFailed, RequestRejected, Usage
from serving.access.keys import KeyStore
from serving.admission.limits import Limit, LimitStore, Measure, Subject
from serving.storage.database import Database
from serving.storage.schema import UsageAttempt
from tests.serving.conftest import SECRET, SPECS, Backend, Keys, Make
from tests.serving.fakes import HELLO, ROLE, STOP, WHOLE, FakeEmbedder, ScriptedEngine, event
from tests.serving.live import eventually

UNREACHABLE = "redis://127.0.0.1:1"
PRICED = tuple(
    ModelSpec.model_validate(
        spec.model_dump() | {"price": {"input_per_million": "2", "output_per_million": "5"}}
    )
    for spec in SPECS
)
PROMPT_TOKENS = 52  # Of `CHAT`, as the simulated model counts.


def told(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


CHAT = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}


async def chat(backend: Backend, key: str | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await backend.post("/v1/chat/completions", CHAT, **headers)


async def stream(backend: Backend) -> httpx.Response:
    return await backend.post("/v1/chat/completions", CHAT | {"stream": True})


async def complete(backend: Backend) -> httpx.Response:
    return await backend.complete(max_tokens=4)


async def embed(backend: Backend) -> httpx.Response:
    return await backend.post("/v1/embeddings", {"model": "embed", "input": "Hi"})


async def tokenize(backend: Backend) -> httpx.Response:
    return await backend.post("/tokenize", {"model": "chat", "prompt": "Hi"})


async def detokenize(backend: Backend) -> httpx.Response:
    return await backend.post("/detokenize", {"model": "chat", "tokens": [1]})


ENDPOINTS = [chat, stream, complete, embed, tokenize, detokenize]
every_endpoint = pytest.mark.parametrize("send", ENDPOINTS, ids=lambda send: send.__name__)
Send = Callable[[Backend], Awaitable[httpx.Response]]


@every_endpoint
async def test_limit_of_requests_holds_on_every_endpoint(make: Make, send: Send) -> None:
    backend = make(admission={"per_key": {"requests_per_minute": 1}})
    first, second = await send(backend), await send(backend)
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert told(second)["code"] == "rate_limit_exceeded"
    assert told(second)["type"] == "rate_limit_error"
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert 0 < int(second.headers["retry-after-ms"]) <= 60_000
    assert second.headers["x-ratelimit-remaining-requests"] == "0"


@every_endpoint
async def test_deadline_holds_on_every_endpoint(make: Make, send: Send) -> None:
    stuck = asyncio.Event()
    backend = make(
        StuckEngine(stuck), embedder=FakeEmbedder(stuck), admission={"max_request_s": 0.05}
    )
    response = await send(backend)
    assert response.status_code == 504
    assert told(response)["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false"


class StuckEngine(ScriptedEngine):
    """An engine that never answers."""

    async def tokenize(self, request: Any) -> Any:  # noqa: ARG002
        await self.script[0].wait()  # type: ignore[union-attr]

    async def detokenize(self, token_ids: list[int]) -> Any:  # noqa: ARG002
        await self.script[0].wait()  # type: ignore[union-attr]


@pytest.mark.parametrize("subject", ["per_key", "per_tenant", "per_model"])
async def test_refusal_names_whose_limit_it_is(make: Make, subject: str) -> None:
    backend = make(admission={subject: {"requests_per_minute": 0}})
    assert (
        f"of this {subject.removeprefix('per_')} is reached" in told(await chat(backend))["message"]
    )


async def test_tokens_are_reserved_before_and_settled_after(make: Make) -> None:
    backend = make(admission={"per_key": {"tokens_per_minute": 300}})
    first = await backend.chat(max_tokens=200)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-tokens"] == str(300 - PROMPT_TOKENS - 200)
    used = first.json()["usage"]["total_tokens"]
    second = await backend.chat(max_tokens=1)
    assert second.headers["x-ratelimit-remaining-tokens"] == str(300 - used - PROMPT_TOKENS - 1)


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_request"])
async def test_request_that_can_never_fit_is_told_not_to_come_again(make: Make, limit: str) -> None:
    backend = make(admission={"per_key": {limit: PROMPT_TOKENS + 9}})
    assert (await backend.chat(max_tokens=9)).status_code == 200
    response = await backend.chat(max_tokens=10)
    assert response.status_code == 429
    assert told(response)["code"] == "too_many_tokens"
    assert response.headers["x-should-retry"] == "false"
    assert int(response.headers["retry-after"]) <= 120


async def test_choices_are_reserved_each(make: Make) -> None:
    backend = make(admission={"per_key": {"tokens_per_request": PROMPT_TOKENS + 29}})
    assert (await backend.chat(max_tokens=10, n=2)).status_code == 200
    assert (await backend.chat(max_tokens=10, n=3)).status_code == 429


async def test_concurrent_requests_are_limited_and_given_back(make: Make) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(ROLE, gate, *WHOLE[1:])
    backend = make(engine, admission={"per_key": {"concurrent_requests": 1}})
    first = asyncio.create_task(chat(backend))
    await engine.started.wait()
    assert (await chat(backend)).status_code == 429
    gate.set()
    assert (await first).status_code == 200
    assert (await chat(backend)).status_code == 200


async def test_budget_that_is_spent_ends_with_insufficient_quota(
    make: Make, own: tuple[str, str]
) -> None:
    key, _ = own
    # 52 prompt tokens at 2, and up to 4 at 5, per million: 124 millionths.
    backend = make(specs=PRICED, admission={"per_tenant": {"budget_day": "0.000300"}})
    statuses = [(await chat(backend, key)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await chat(backend, key)
    assert (told(refused)["type"], told(refused)["code"]) == ("insufficient_quota",) * 2
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) <= 120


async def test_200_parallel_requests_overspend_nothing(make: Make, own: tuple[str, str]) -> None:
    key, key_id = own
    backend = make(specs=PRICED, admission={"per_key": {"budget_total": "0.001000"}})
    first = await backend.chat(key=key, max_tokens=40)  # The key is known from here on.
    answers = await asyncio.gather(*(backend.chat(key=key, max_tokens=40) for _ in range(199)))
    assert first.status_code == 200
    codes = {told(answer)["code"] for answer in answers if answer.status_code != 200}
    spent = await spent_nanos(backend, key_id)
    assert codes <= {"insufficient_quota", "budget_held"}
    assert 500_000 < spent <= 1_000_000


async def spent_nanos(backend: Backend, key_id: str) -> int:
    rows = await backend.admission_parts.ledger.report(group_by=[], key_id=key_id)
    return sum(row.cost_nanos for row in rows)


async def test_message_of_a_budget_that_runs_ahead_says_so(
    make: Make, own: tuple[str, str]
) -> None:
    key, _ = own
    gate = asyncio.Event()
    engine = ScriptedEngine(ROLE, gate, *WHOLE[1:])
    backend = make(engine, specs=PRICED, admission={"per_key": {"budget_day": "0.000200"}})
    first = asyncio.create_task(chat(backend, key))
    await asyncio.wait_for(engine.started.wait(), 30)
    held = await chat(backend, key)
    assert (held.status_code, told(held)["code"]) == (429, "budget_held")
    assert "x-should-retry" not in held.headers
    gate.set()
    assert (await first).status_code == 200


async def test_limits_of_the_store_go_before_those_of_the_configuration(
    make: Make, database: Database, keys: Keys
) -> None:
    key = await own_key(database, requests_per_minute=2)
    backend = make(admission={"per_key": {"requests_per_minute": 0}})
    statuses = [(await backend.chat(key=key, max_tokens=1)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await backend.chat(key=keys.globex, max_tokens=1)).status_code == 429


async def own_key(database: Database, **limits: int) -> str:
    """Create a key of a new tenant, with limits."""
    store, bounds = KeyStore(database, SECRET), LimitStore(database)
    name = f"t{id(limits)}"
    issued = await store.create(name, "ci")
    measures: dict[Measure, int] = limits  # type: ignore[assignment]
    for measure, value in measures.items():
        subject = Subject("key", issued.record.id)
        await bounds.set(Limit(subject, measure, value, "allow"))
    return issued.key.get_secret_value()


async def test_gateways_share_limits_exactly(make: Make) -> None:
    settings = {
        "prefix": "{shared-by-two}:",
        "admission": {"per_tenant": {"requests_per_minute": 20}},
    }
    gateways = make(**settings), make(**settings)
    answers = await asyncio.gather(
        *(gateways[number % 2].chat(max_tokens=1) for number in range(60))
    )
    assert sum(answer.status_code == 200 for answer in answers) == 20


async def test_rates_let_through_and_budgets_refuse_while_valkey_is_away(make: Make) -> None:
    storage = {"storage": {"valkey": UNREACHABLE}}
    rates = make(**storage, admission={"per_key": {"requests_per_minute": 0}})
    assert (await chat(rates)).status_code == 200
    assert await rates.metric("ringfence_unchecked_requests") == 1
    assert await rates.metric("ringfence_valkey_up") == 0
    budgets = make(**storage, admission={"per_key": {"budget_day": 1000}})
    refused = await chat(budgets)
    assert (refused.status_code, told(refused)["code"]) == (503, "limits_unavailable")
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        ({"requests_per_minute": {"value": 10, "without_store": "refuse"}}, 503),
        ({"budget_day": {"value": 10, "without_store": "allow"}}, 200),
    ],
    ids=["rate", "budget"],
)
async def test_policy_without_valkey_is_each_limit_s_own(
    make: Make, limits: dict[str, Any], status: int
) -> None:
    backend = make(storage={"valkey": UNREACHABLE}, admission={"per_key": limits})
    assert (await chat(backend)).status_code == status


async def test_full_queue_refuses_at_once_with_a_time_to_come_again(make: Make) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(ROLE, gate, *WHOLE[1:])
    narrow = SPECS[0].model_copy(update={"max_ongoing_requests": 1, "max_queued_requests": 1})
    backend = make(engine, specs=(narrow, *SPECS[1:]), admission={
        "per_key": {"requests_per_minute": 3}
    })  # fmt: skip
    running = [asyncio.create_task(chat(backend)) for _ in range(2)]
    await eventually(lambda: backend.admission_parts.admission.queues["chat"].waiting == 1)
    refused = await chat(backend)  # While those two go on.
    assert not any(one.done() for one in running)
    assert (refused.status_code, told(refused)["code"]) == (503, "overloaded")
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    # The refused one did not count against the limit of three.
    assert (await chat(backend)).status_code == 200


async def test_client_s_own_deadline_is_kept_in_the_queue_too(make: Make) -> None:
    engine = ScriptedEngine(asyncio.Event())
    narrow = SPECS[0].model_copy(update={"max_ongoing_requests": 1})
    backend = make(engine, specs=(narrow, *SPECS[1:]))
    headers = {"x-request-timeout-s": "0.1"}
    answers = await asyncio.gather(
        *(backend.post("/v1/chat/completions", CHAT, **headers) for _ in range(2))
    )
    assert {answer.status_code for answer in answers} <= {503, 504}
    assert engine.open == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-request-timeout-s", "soon"), ("x-request-timeout-s", "-1"), ("x-request-timeout-s", "nan"),
     ("x-ringfence-priority", "urgent")],
)  # fmt: skip
async def test_header_that_cannot_be_meant_is_refused(
    backend: Backend, name: str, value: str
) -> None:
    answer = await backend.post("/v1/chat/completions", CHAT, **{name: value})
    assert (answer.status_code, told(answer)["param"]) == (400, name)


async def test_deadline_in_mid_stream_is_told_in_the_stream(make: Make) -> None:
    engine = ScriptedEngine(ROLE, HELLO, asyncio.Event())
    backend = make(engine, admission={"max_request_s": 0.05})
    answer = await stream(backend)
    last = answer.content.rstrip().rsplit(b"\n\n", 1)[-1]
    assert answer.status_code == 200
    assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert b"[DONE]" not in answer.content


async def test_key_revoked_in_mid_stream_ends_the_stream(make: Make, database: Database) -> None:
    store = KeyStore(database, SECRET)
    issued = await store.create("acme", "soon-revoked")
    gate = asyncio.Event()
    engine = ScriptedEngine(ROLE, HELLO, gate)
    backend = make(engine)
    backend.admission_parts.start()
    key = issued.key.get_secret_value()
    answering = asyncio.create_task(backend.chat(key=key, stream=True))
    await engine.started.wait()
    await store.revoke(issued.record.id)
    answer = await asyncio.wait_for(answering, 60)
    assert b"invalid_api_key" in answer.content
    assert engine.open == 0
    assert await outcomes(backend, database, issued.record.id) == ["invalid_api_key"]


async def outcomes(backend: Backend, database: Database, key_id: str = "env") -> list[str]:
    return [row.outcome for row in await attempts(backend, database, key_id)]


async def attempts(backend: Backend, database: Database, key_id: str = "env") -> list[UsageAttempt]:
    await backend.admission_parts.ledger.drain()
    query = select(UsageAttempt).where(UsageAttempt.key_id == key_id)
    async with database.session() as session:
        return list(await session.scalars(query.order_by(UsageAttempt.started_at)))


@pytest.fixture
async def own(database: Database) -> tuple[str, str]:
    """Create a key that no other test uses; return it with its id."""
    issued = await KeyStore(database, SECRET).create(f"own{id(database)}", "ci")
    return issued.key.get_secret_value(), issued.record.id


async def test_ledger_has_what_the_client_was_told(
    make: Make, database: Database, own: tuple[str, str]
) -> None:
    key, key_id = own
    backend = make(specs=PRICED)
    usage = (await backend.chat(key=key, max_tokens=7)).json()["usage"]
    (row,) = await attempts(backend, database, key_id)
    assert (row.prompt_tokens, row.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert row.cost_nanos == 2000 * usage["prompt_tokens"] + 5000 * usage["completion_tokens"]
    assert (row.outcome, row.endpoint, row.route, row.estimated) == ("ok", "chat", "local", False)
    assert row.ttft_ms is not None
    assert 0 < row.ttft_ms <= row.duration_ms


async def test_failure_before_an_answer_costs_nothing(
    make: Make, database: Database, own: tuple[str, str]
) -> None:
    key, key_id = own
    backend = make(ScriptedEngine(RequestRejected("No.")), specs=PRICED)
    assert (await backend.chat(key=key)).status_code == 400
    (row,) = await attempts(backend, database, key_id)
    assert (row.outcome, row.prompt_tokens, row.cost_nanos) == ("invalid_request", 0, 0)


async def test_answer_that_broke_off_is_charged_for_what_was_seen(
    make: Make, database: Database, own: tuple[str, str]
) -> None:
    key, key_id = own
    backend = make(ScriptedEngine(ROLE, HELLO, HELLO, EngineFailed("Broke.")), specs=PRICED)
    await backend.chat(key=key, stream=True, max_tokens=9)
    (row,) = await attempts(backend, database, key_id)
    assert (row.outcome, row.estimated) == ("engine_failed", True)
    assert (row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, 2)
    assert row.cost_nanos == 2000 * PROMPT_TOKENS + 5000 * 2


@pytest.mark.parametrize(
    "absurd",
    [Usage(-5, 3), Usage(3, -1), Usage(10**12, 1), Usage(3, 10**15), Usage(3, 1, 9)],
    ids=str,
)
async def test_absurd_usage_of_an_engine_is_not_charged(
    make: Make, database: Database, own: tuple[str, str], absurd: Usage
) -> None:
    key, key_id = own
    backend = make(ScriptedEngine(ROLE, HELLO, STOP, absurd), specs=PRICED)
    assert (await backend.chat(key=key, max_tokens=9)).status_code == 200
    (row,) = await attempts(backend, database, key_id)
    assert row.estimated
    assert row.prompt_tokens == PROMPT_TOKENS
    assert 0 < row.completion_tokens <= 9
    assert 0 < row.cost_nanos <= 2000 * PROMPT_TOKENS + 5000 * 9


@every_endpoint
async def test_repeat_with_an_idempotency_key_is_the_same_answer_and_one_charge(
    make: Make, send: Send, database: Database, own: tuple[str, str]
) -> None:
    key, key_id = own
    backend = make(specs=PRICED, admission={"per_key": {"requests_per_minute": 1}})
    backend.client.headers["authorization"] = f"Bearer {key}"
    backend.client.headers["idempotency-key"] = f"repeat-{key_id}"
    answers = [await send(backend) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {answers[0].content}
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert replayed == [None, "true", "true"]
    assert len(await attempts(backend, database, key_id)) == 1


async def test_key_of_less_rights_gets_no_answer_of_another(make: Make, keys: Keys) -> None:
    backend = make()
    backend.client.headers["idempotency-key"] = "of-the-tenant"
    assert (await backend.chat(key=keys.acme, max_tokens=1)).status_code == 200
    refused = await backend.chat(key=keys.limited, max_tokens=1)
    assert (refused.status_code, told(refused)["code"]) == (409, "idempotency_key_reused")


async def test_no_text_is_in_the_ledger_or_in_valkey(
    make: Make, database: Database, own: tuple[str, str]
) -> None:
    key, key_id = own
    canary = "canary-of-the-ledger"
    backend = make(
        ScriptedEngine(ROLE, event({"choices": [], "canary": canary}), STOP, Usage(3, 2)),
        admission={"per_key": {"tokens_per_minute": 10_000}},
    )
    await backend.chat(key=key, messages=[{"role": "user", "content": canary}], max_tokens=4)
    valkey = backend.admission_parts.valkey
    kept = [await valkey.command("DUMP", name) for name in await valkey.command("KEYS", "*")]
    rows = await attempts(backend, database, key_id)
    assert rows
    assert not any(canary.encode() in value for value in kept if value)
    assert not any(canary in str(vars(row)) for row in rows)
