"""Files, vector stores and file search with OpenAI's own client, over a socket."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionUserMessageParam
from sqlalchemy import update

from rag.schema import VectorStore
from tests.rag.parsing.sample_files import pdf, word
from tests.serving.knowledge.backend import CHAT, Backend

POLL_MS = 20
SMALL = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0},
}
ASKED: ChatCompletionUserMessageParam = {"role": "user", "content": "what do pumps need"}
RESULTS = "file_search_call.results"

PLANS: dict[str, dict[str, Any]] = {
    "a": {"year": 2020, "kind": "report", "draft": True},
    "b": {"year": 2022.5, "kind": "memo", "draft": False},
    "c": {"year": 2024, "kind": "report"},
}
"""Attributes of files."""

FILTERS: dict[str, tuple[dict[str, Any], str]] = {
    "eq": ({"type": "eq", "key": "kind", "value": "report"}, "ac"),
    "ne": ({"type": "ne", "key": "draft", "value": True}, "bc"),
    "gt": ({"type": "gt", "key": "year", "value": 2022.5}, "c"),
    "gte": ({"type": "gte", "key": "year", "value": 2022.5}, "bc"),
    "lt": ({"type": "lt", "key": "year", "value": 2022.5}, "a"),
    "lte": ({"type": "lte", "key": "year", "value": 2022.5}, "ab"),
    "in": ({"type": "in", "key": "kind", "value": ["memo", "note"]}, "b"),
    "nin": ({"type": "nin", "key": "kind", "value": ["memo", "note"]}, "ac"),
}
"""Filters with each operator, and the files that match."""


@pytest.fixture
async def sdk(backend: Backend) -> AsyncIterator[AsyncOpenAI]:
    async with backend.sdk() as client:
        yield client


async def store_of(sdk: AsyncOpenAI, texts: dict[str, str], **attributes: dict[str, Any]) -> str:
    """Create a store with an indexed file of each text; return its id."""
    store = await sdk.vector_stores.create(name="s")
    for name, text in texts.items():
        made = await sdk.vector_stores.files.upload_and_poll(
            vector_store_id=store.id,
            file=(f"{name}.txt", text.encode()),
            attributes=attributes.get(name, {}),
            poll_interval_ms=POLL_MS,
        )
        assert made.status == "completed", made.last_error
    return store.id


async def found(sdk: AsyncOpenAI, store_id: str, **asked: Any) -> str:
    """Return the one-letter names of the files that a search finds, in order."""
    page = await sdk.vector_stores.search(store_id, **{"query": "pumps"} | asked)
    return "".join(one.filename.removesuffix(".txt") for one in page.data)


async def test_files_are_kept_as_they_were_and_listed_page_by_page(sdk: AsyncOpenAI) -> None:
    made = [
        await sdk.files.create(file=(f"{name}.txt", name.encode()), purpose="user_data")
        for name in ("one", "two", "three")
    ]
    listed = [one async for one in sdk.files.list(limit=2, order="asc")]
    assert sorted(one.id for one in listed) == sorted(one.id for one in made)
    assert await sdk.files.retrieve(made[1].id) == made[1]
    assert (await sdk.files.content(made[1].id)).content == b"two"


async def test_deleted_file_is_not_there_any_more(sdk: AsyncOpenAI) -> None:
    file = await sdk.files.create(file=("a.txt", b"a"), purpose="assistants")
    assert (await sdk.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError, match="No such file"):
        await sdk.files.retrieve(file.id)


async def test_vector_stores_are_listed_page_by_page_changed_and_deleted(
    sdk: AsyncOpenAI,
) -> None:
    made = [
        await sdk.vector_stores.create(name=name, metadata={"of": name}) for name in ("a", "b", "c")
    ]
    listed = [one.id async for one in sdk.vector_stores.list(limit=2, order="asc")]
    assert sorted(listed) == sorted(one.id for one in made)
    days = {"anchor": "last_active_at", "days": 3}
    await sdk.vector_stores.update(made[0].id, name="new", expires_after=days)  # type: ignore[arg-type]
    changed = await sdk.vector_stores.retrieve(made[0].id)
    assert (changed.name, changed.metadata) == ("new", {"of": "a"})
    assert changed.expires_at == (changed.last_active_at or 0) + 3 * 86_400
    assert (await sdk.vector_stores.delete(made[0].id)).deleted
    with pytest.raises(openai.NotFoundError, match="No such vector store"):
        await sdk.vector_stores.retrieve(made[0].id)


async def test_store_that_is_made_twice_with_one_key_is_one(sdk: AsyncOpenAI) -> None:
    again = {"Idempotency-Key": secrets.token_hex(8)}
    first = await sdk.vector_stores.create(name="s", extra_headers=again)
    second = await sdk.vector_stores.create(name="s", extra_headers=again)
    assert first == second
    assert [one.id async for one in sdk.vector_stores.list()] == [first.id]


async def test_file_is_in_its_store_until_it_is_taken_out(sdk: AsyncOpenAI) -> None:
    store_id = await store_of(sdk, {"a": "pumps need water"})
    (file,) = [one async for one in sdk.vector_stores.files.list(store_id)]
    content = await sdk.vector_stores.files.content(file.id, vector_store_id=store_id)
    assert [one.text for one in content.data] == ["pumps need water"]
    counted = (await sdk.vector_stores.retrieve(store_id)).file_counts
    assert (counted.completed, counted.total) == (1, 1)
    await sdk.vector_stores.files.delete(file.id, vector_store_id=store_id)
    assert await found(sdk, store_id) == ""
    assert (await sdk.files.retrieve(file.id)).filename == "a.txt"


async def test_batch_tells_why_some_of_its_files_cannot_be_read(sdk: AsyncOpenAI) -> None:
    store = await sdk.vector_stores.create(name="s")
    files = {
        "good.pdf": pdf(["pumps " * 90, "valves " * 90]),
        "good.docx": word(),
        "broken.pdf": b"%PDF-1.4\nnothing else",
        "empty.txt": b"",
    }
    batch = await sdk.vector_stores.file_batches.upload_and_poll(
        store.id, files=list(files.items()), poll_interval_ms=POLL_MS,
        chunking_strategy=SMALL,  # type: ignore[arg-type]
    )  # fmt: skip
    counts = batch.file_counts
    assert (batch.status, counts.completed, counts.failed) == ("completed", 2, 2)
    reasons = {}
    failed = sdk.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=store.id, filter="failed"
    )
    async for one in failed:
        assert one.last_error is not None
        reasons[(await sdk.files.retrieve(one.id)).filename] = one.last_error.message
    assert reasons == {
        "broken.pdf": "The file is damaged: it cannot be read.",
        "empty.txt": "The file has no text.",
    }
    (best, *_) = (await sdk.vector_stores.search(store.id, query="valves")).data
    assert (best.filename, best.model_dump()["page"]) == ("good.pdf", 2)


async def test_cancelled_batch_indexes_no_more(sdk: AsyncOpenAI) -> None:
    store = await sdk.vector_stores.create(name="s")
    files = [
        await sdk.files.create(file=(f"{number}.txt", b"pumps"), purpose="assistants")
        for number in range(40)
    ]
    batches = sdk.vector_stores.file_batches
    batch = await batches.create(store.id, file_ids=[one.id for one in files])
    cancelled = await batches.cancel(batch.id, vector_store_id=store.id)
    assert cancelled.status == "cancelled"
    assert (cancelled.file_counts.in_progress, cancelled.file_counts.total) == (0, 40)
    assert cancelled.file_counts.cancelled > 0
    await sdk.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("later.txt", b"pumps"), poll_interval_ms=POLL_MS
    )
    assert await batches.retrieve(batch.id, vector_store_id=store.id) == cancelled


async def test_search_takes_every_operator(sdk: AsyncOpenAI) -> None:
    store_id = await store_of(sdk, dict.fromkeys(PLANS, "pumps"), **PLANS)
    passed = {
        name: "".join(sorted(await found(sdk, store_id, filters=wanted)))
        for name, (wanted, _) in FILTERS.items()
    }
    assert passed == {name: files for name, (_, files) in FILTERS.items()}
    two = [FILTERS["gte"][0], FILTERS["eq"][0]]
    assert await found(sdk, store_id, filters={"type": "and", "filters": two}) == "c"
    either = await found(sdk, store_id, filters={"type": "or", "filters": two})
    assert sorted(either) == ["a", "b", "c"]


async def test_changed_attributes_count_for_the_next_search(sdk: AsyncOpenAI) -> None:
    store_id = await store_of(sdk, {"a": "pumps"}, a={"year": 2020})
    wanted = {"type": "eq", "key": "year", "value": 2021}
    before = await found(sdk, store_id, filters=wanted)
    (file,) = [one async for one in sdk.vector_stores.files.list(store_id)]
    await sdk.vector_stores.files.update(
        file.id, vector_store_id=store_id, attributes={"year": 2021}
    )  # fmt: skip
    assert (before, await found(sdk, store_id, filters=wanted)) == ("", "a")


async def test_search_takes_questions_and_how_to_rank(sdk: AsyncOpenAI) -> None:
    texts = {"a": "pumps need water", "b": "pumps pumps pumps", "c": "valves and no more"}
    store_id = await store_of(sdk, texts)
    words = {"hybrid_search": {"embedding_weight": 0, "text_weight": 1}}
    meaning = {"hybrid_search": {"embedding_weight": 1, "text_weight": 0}}
    assert (await found(sdk, store_id))[0] == "b"
    assert sorted(await found(sdk, store_id, query=["pumps", "valves"])) == ["a", "b", "c"]
    assert await found(sdk, store_id, max_num_results=1) == "b"
    assert await found(sdk, store_id, rewrite_query=True, max_num_results=1) == "b"
    assert sorted(await found(sdk, store_id, ranking_options=words)) == ["a", "b"]
    assert sorted(await found(sdk, store_id, ranking_options=meaning)) == ["a", "b", "c"]
    best = meaning | {"score_threshold": 1.0}
    assert await found(sdk, store_id, ranking_options=best) == "b"


async def test_expired_store_is_told_as_such_and_takes_nothing(
    backend: Backend, sdk: AsyncOpenAI
) -> None:
    store_id = await store_of(sdk, {"a": "pumps"})
    file = await sdk.files.create(file=("b.txt", b"b"), purpose="assistants")
    long_ago = update(VectorStore).where(VectorStore.id == store_id)
    async with backend.database.transaction() as session:
        await session.execute(long_ago.values(last_active_at=0, expires_after_days=1))
    assert (await sdk.vector_stores.retrieve(store_id)).status == "expired"
    with pytest.raises(openai.NotFoundError, match="No such vector store"):
        await sdk.vector_stores.search(store_id, query="pumps")
    with pytest.raises(openai.BadRequestError, match="has expired"):
        await sdk.vector_stores.files.create(store_id, file_id=file.id)


async def test_streamed_chat_cites_what_the_unstreamed_does(sdk: AsyncOpenAI) -> None:
    store_id = await store_of(sdk, {"a": "pumps need water", "b": "valves need oil"})
    grounded = {"file_search": {"vector_store_ids": [store_id]}, "include": [RESULTS]}
    whole = await sdk.chat.completions.with_raw_response.create(
        model=CHAT, messages=[ASKED], extra_body=grounded
    )
    stream = await sdk.chat.completions.create(
        model=CHAT, messages=[ASKED], stream=True, extra_body=grounded
    )
    deltas = [
        choice.delta.model_dump(exclude_none=True)
        async for chunk in stream
        for choice in chunk.choices
    ]
    message = whole.http_response.json()["choices"][0]["message"]
    sources = {name: message[name] for name in ("annotations", "file_search_call")}
    assert [one for one in deltas if "annotations" in one] == [sources]
    assert sorted(one["filename"] for one in sources["annotations"]) == ["a.txt", "b.txt"]
    assert "pumps need water" in "".join(one.get("content", "") for one in deltas)


async def test_chat_tells_the_passages_that_a_search_finds(sdk: AsyncOpenAI) -> None:
    store_id = await store_of(sdk, {"a": "pumps need water", "b": "valves need oil"})
    answer = await sdk.chat.completions.create(
        model=CHAT, messages=[ASKED],
        extra_body={"file_search": {"vector_store_ids": [store_id]}, "include": [RESULTS]},
    )  # fmt: skip
    call = answer.choices[0].message.model_dump()["file_search_call"]
    page = await sdk.vector_stores.search(store_id, query=str(ASKED["content"]))
    assert [(one["filename"], one["score"], one["text"]) for one in call["results"]] == [
        (one.filename, one.score, one.content[0].text) for one in page.data
    ]
