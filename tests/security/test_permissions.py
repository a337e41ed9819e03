"""Nobody learns of files and vector stores that are not for them: random calls, held to a model.

Every file has a mark in its name and its text, which may be in no answer to who may not read it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pytest

from tests.serving.knowledge.access_actions import (
    ACTIONS,
    cover,
    list_files,
    list_stores,
    populated,
)
from tests.serving.knowledge.access_fuzz import (
    BATCH,
    BATCHES,
    CHATS,
    FILE,
    FILES,
    OF_THE_LIBRARY,
    STORE,
    STORES,
    WORD,
    Fuzz,
)
from tests.serving.knowledge.access_model import Caller
from tests.serving.knowledge.backend import Backend, backend, home
from tests.serving.storage.databases import migrated_url, postgres_url

__all__ = ["backend", "home", "migrated_url", "postgres_url"]

SEEDS = [1, 2, pytest.param(3, marks=pytest.mark.full)]  # Each calls every route.
ROUNDS = 2
"""In each round, random callers call every route."""


async def test_every_route_of_the_library_is_called_by_the_fuzz(backend: Backend) -> None:
    assert backend.routes(*OF_THE_LIBRARY) == ACTIONS.keys() - {("POST", CHATS)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_nobody_learns_of_what_is_not_for_them(backend: Backend, seed: int) -> None:
    fuzz = await populated(backend, seed)
    for _ in range(ROUNDS):
        for action in fuzz.random.sample(list(ACTIONS.values()), len(ACTIONS)):
            await action(fuzz, fuzz.random.choice(fuzz.callers))
    for route in ACTIONS:
        await cover(fuzz, route)
    for caller in fuzz.callers:
        await list_files(fuzz, caller)
        await list_stores(fuzz, caller)


async def key_of(backend: Backend, *groups: str) -> Caller:
    key, _ = await backend.key(*groups)
    return Caller.of(key, backend.tenant, groups, None)


async def uploaded(fuzz: Fuzz, owner: Caller, text: str, access: Sequence[str]) -> str:
    """Upload a file and return its id."""
    fields = {"purpose": "assistants", "access": orjson.dumps(access)}
    form = {"files": {"file": ("a.txt", text.encode())}, "data": fields}
    return str((await fuzz.seen(owner, "POST", FILES, form=form))["id"])


async def shelved(fuzz: Fuzz, owner: Caller, texts: Mapping[str, Sequence[str]]) -> str:
    """Create a store with a file for each text, readable by those on its list; all indexed."""
    files = [await uploaded(fuzz, owner, text, access) for text, access in texts.items()]
    sizes = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}
    sent = {
        "name": "s", "access": ["tenant"], "file_ids": files,
        "chunking_strategy": {"type": "static", "static": sizes},
    }  # fmt: skip
    store_id: str = (await fuzz.seen(owner, "POST", STORES, sent=sent))["id"]
    await fuzz.backend.indexed()
    return store_id


async def texts_found(fuzz: Fuzz, caller: Caller, store_id: str, **asked: Any) -> list[str]:
    sent = {"query": WORD} | asked
    page = await fuzz.seen(caller, "POST", STORE + "/search", store_id=store_id, sent=sent)
    return [one["content"][0]["text"] for one in page["data"]]


async def test_hidden_passages_that_fit_better_take_nobody_s_place(backend: Backend) -> None:
    fuzz = Fuzz(backend, 0)
    owner, caller = await key_of(backend, "legal"), await key_of(backend)
    better = {f"{number} {f'{WORD} ' * 8000}": ["group:legal"] for number in range(4)}
    worse = {f"{letter} {WORD} and nine words of no use here": ["tenant"] for letter in "abc"}
    store_id = await shelved(fuzz, owner, better | worse)
    for meaning, words in ((1, 1), (1, 0), (0, 1)):
        weights = {"embedding_weight": meaning, "text_weight": words}
        asked = {"max_num_results": 3, "ranking_options": {"hybrid_search": weights}}
        assert sorted(await texts_found(fuzz, caller, store_id, **asked)) == sorted(worse)
        assert worse.keys().isdisjoint(await texts_found(fuzz, owner, store_id, **asked))


async def test_next_search_obeys_a_change_of_access(backend: Backend) -> None:
    fuzz = Fuzz(backend, 0)
    owner, caller = await key_of(backend, "legal"), await key_of(backend)
    store_id = await shelved(fuzz, owner, {f"{WORD} here": ["tenant"]})
    (file_id,) = [one["id"] for one in await fuzz.pages(owner, FILES)]
    found = []
    for access in (["tenant"], ["group:legal"], ["tenant", "group:legal"]):
        await fuzz.seen(owner, "POST", FILE, file_id=file_id, sent={"access": access})
        found.append(await texts_found(fuzz, caller, store_id))
    assert found == [[f"{WORD} here"], [], [f"{WORD} here"]]


async def test_batch_is_cancelled_for_the_files_of_who_cancels_it_alone(backend: Backend) -> None:
    fuzz = Fuzz(backend, 0)
    owner, caller = await key_of(backend, "legal"), await key_of(backend)
    store_id = await shelved(fuzz, owner, {})
    lists = [["tenant"], ["group:legal"]] * 20
    files = [await uploaded(fuzz, owner, WORD, access) for access in lists]
    sent = {"file_ids": files}
    made = await fuzz.seen(owner, "POST", BATCHES, store_id=store_id, sent=sent)
    how: dict[str, Any] = {"store_id": store_id, "batch_id": made["id"]}
    cancelled = await fuzz.call(caller, "POST", BATCH + "/cancel", **how)
    mine = cancelled.json()["file_counts"]
    theirs = (await fuzz.seen(owner, "GET", BATCH, **how))["file_counts"]
    assert mine["cancelled"] > 0
    assert (mine["total"], theirs["total"]) == (20, 40)
    assert theirs["cancelled"] == mine["cancelled"]
    assert theirs["completed"] == mine["completed"] + 20


async def test_revoked_key_opens_no_route_and_a_new_one_what_its_groups_may(
    backend: Backend,
) -> None:
    fuzz = Fuzz(backend, 0)
    owner = await key_of(backend, "legal")
    store_id = await shelved(fuzz, owner, {f"{WORD} here": ["group:legal"]})
    key, key_id = await backend.key("legal")
    gone = Caller.of(key, backend.tenant, ["legal"], None)
    assert await texts_found(fuzz, gone, store_id) == [f"{WORD} here"]
    await backend.revoke(key_id)
    ids: dict[str, Any] = {"store_id": store_id, "file_id": "file-1", "batch_id": "vsfb_1"}
    for method, path in backend.routes(*OF_THE_LIBRARY):
        assert (await fuzz.call(gone, method, path, **ids)).status_code == 401, path
    assert await texts_found(fuzz, await key_of(backend, "sales"), store_id) == []
    assert await texts_found(fuzz, await key_of(backend, "legal"), store_id) == [f"{WORD} here"]


async def test_kept_answer_is_not_for_a_key_of_other_groups(backend: Backend) -> None:
    fuzz = Fuzz(backend, 0)
    owner, caller = await key_of(backend, "legal"), await key_of(backend)
    store_id = await shelved(fuzz, owner, {f"{WORD} here": ["group:legal"]})
    again = {"idempotency-key": secrets.token_hex(8)}
    path = (STORE + "/search").format(store_id=store_id)
    answers = [
        await backend.client.post(
            path, json={"query": WORD}, headers=again | {"authorization": f"Bearer {one.key}"}
        )
        for one in (owner, owner, caller)
    ]
    assert [one.status_code for one in answers] == [200, 200, 409]
    assert [WORD + " here" in one.text for one in answers] == [True, True, False]
