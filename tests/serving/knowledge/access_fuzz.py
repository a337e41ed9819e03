"""Random calls of files and vector stores by all kinds of callers, checked against the model.

What may not be seen is answered as what was never there, and nothing gives it away.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

import httpx
import orjson
from sqlalchemy import select

from rag.schema import StoreFile
from tests.serving.knowledge.access_model import Caller, File, Store, World, may_read, tokens
from tests.serving.knowledge.backend import Backend

Case = Literal["seen", "hidden"]
BOTH: set[Case] = {"seen", "hidden"}

GROUPS = ("legal", "sales", "lab")
USERS = ("ann", "bob")
ENTRIES = ("tenant", *(f"group:{one}" for one in GROUPS), *(f"user:{one}" for one in USERS))
KEYS: Sequence[tuple[int, Sequence[str], str | None]] = (
    (0, (), None), (0, ("legal",), None), (0, ("legal", "sales"), None), (0, GROUPS, None),
    (0, ("lab",), "ann"), (0, (), "bob"), (1, (), None), (1, ("legal",), None),
    (1, ("sales", "lab"), "ann"),
)  # fmt: skip
"""Tenant, groups and user of each caller."""

WORD = "harvest"
"""A word in every text, so that every text matches a search for it."""

FILES, STORES = "/v1/files", "/v1/vector_stores"
FILE, STORE = f"{FILES}/{{file_id}}", f"{STORES}/{{store_id}}"
IN_STORE = f"{STORE}/files"
IN_STORE_FILE = f"{IN_STORE}/{{file_id}}"
BATCHES = f"{STORE}/file_batches"
BATCH = f"{BATCHES}/{{batch_id}}"
CHATS = "/v1/chat/completions"
OF_THE_LIBRARY = (FILES, STORES)
WITHOUT_HIDDEN = ("POST", FILES)
"""The route that takes no id, so that nothing hidden can be named."""

ATTACHING = {("POST", STORES), ("POST", IN_STORE), ("POST", BATCHES)}
"""Routes after which there may be something to index; they do not wait for it themselves."""

_OWN_HEADERS = {"x-request-id", "openai-processing-ms"}

T = TypeVar("T")
Route = tuple[str, str]


class Fuzz:
    """Callers of a backend, what they may see, and their calls."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend = backend
        self.random = random.Random(seed)  # noqa: S311  It is to be repeated.
        self.world = World()
        self.callers: list[Caller] = []
        self.covered: dict[Route, set[Case]] = defaultdict(set)
        self.indexing = False

    async def open_keys(self) -> None:
        """Create a key of each kind."""
        for number, groups, user in KEYS:
            tenant = f"{self.backend.tenant}-{number}"
            key, _ = await self.backend.key(*groups, tenant=tenant, user=user)
            self.callers.append(Caller.of(key, tenant, groups, user))

    async def call(
        self, caller: Caller, method: str, path: str, *, sent: Any = None, form: Any = None,
        query: Mapping[str, Any] | None = None, **ids: str,
    ) -> httpx.Response:  # fmt: skip
        """Check that an answer reveals nothing hidden, except what the caller itself sent."""
        answer = await self.backend.client.request(
            method, path.format(**ids), params=query, json=sent,
            headers={"authorization": f"Bearer {caller.key}"}, **(form or {}),
        )  # fmt: skip
        told = tokens(f"{answer.text} {answer.headers}")
        said = tokens(f"{answer.request.url} {sent}")
        assert told & self.world.hidden_from(caller) <= said, (method, path, ids, sent)
        return answer

    async def seen(self, caller: Caller, method: str, path: str, **how: Any) -> Any:
        """Return the body of a successful answer, after indexing earlier attachments."""
        if (method, path) in ATTACHING:
            self.indexing = True
        elif self.indexing:
            await self.backend.indexed()
            self.indexing = False
        answer = await self.call(caller, method, path, **how)
        assert answer.status_code == 200, answer.text
        self.covered[method, path].add("seen")
        is_json = answer.headers["content-type"] == "application/json"
        return answer.json() if is_json else answer.text

    async def hidden(
        self, caller: Caller, method: str, path: str, hidden: str, *, status: int = 404, **how: Any
    ) -> None:
        """Check that a hidden object is answered like one that never existed, to the byte."""
        kind = hidden[:-32]
        unknown = kind + secrets.token_hex(16)
        answers = []
        for named in (hidden, unknown):
            renamed = orjson.loads(orjson.dumps(how).replace(hidden.encode(), named.encode()))
            answer = await self.call(caller, method, path, **renamed)
            headers = [one for one in answer.headers.multi_items() if one[0] not in _OWN_HEADERS]
            answers.append((answer.status_code, answer.text.replace(named, kind), headers))
        assert answers[0] == answers[1]
        assert answers[0][0] == status, answers[0]
        self.covered[method, path].add("hidden")

    async def pages(self, caller: Caller, path: str, **how: Any) -> list[dict[str, Any]]:
        """Return all objects of a list, page by page."""
        query = {"limit": self.random.randint(1, 7), "order": self.random.choice(("asc", "desc"))}
        found: list[dict[str, Any]] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = await self.seen(caller, "GET", path, query=query | after, **how)
            found += page["data"]
            if not page["has_more"]:
                return found

    def a_hidden(self, caller: Caller, prefix: str) -> str:
        return self.random.choice(self.world.hidden_ids(caller, prefix))

    def a_file(self, caller: Caller) -> File | None:
        return self._one(self.world.files_of(caller))

    def a_store(self, caller: Caller) -> Store | None:
        return self._one(self.world.stores_of(caller))

    def a_store_file(self, caller: Caller) -> tuple[Store, str] | None:
        """Choose a file that the caller sees in a store."""
        stores = self.world.stores_of(caller).values()
        found = [(store, one) for store in stores for one in self.world.within(caller, store)]
        return self.random.choice(found) if found else None

    def buried(self, caller: Caller) -> tuple[Store, str] | None:
        """Choose a file in a store of the caller that the caller may not read."""
        stores = self.world.stores_of(caller).values()
        mine = self.world.files_of(caller)
        found = [(store, one) for store in stores for one in store.files if one not in mine]
        return self.random.choice(found) if found else None

    def a_mark(self) -> str:
        return f"mark{self.random.randbytes(6).hex()}"

    def an_access_list(self) -> list[str]:
        return self.random.sample(ENTRIES, self.random.randint(1, 3))

    def some_files(self, caller: Caller) -> list[str]:
        mine = list(self.world.files_of(caller))
        return self.random.sample(mine, min(len(mine), self.random.randint(1, 4)))

    def fellows(self, caller: Caller) -> list[Caller]:
        """Return all callers of the caller's tenant."""
        return [one for one in self.callers if one.tenant == caller.tenant]

    def _one(self, found: Mapping[str, T]) -> T | None:
        return self.random.choice(list(found.values())) if found else None

    async def check_store(self, caller: Caller, store: Store) -> None:
        """Check a store's own figures, and what is found in it."""
        if not may_read(caller, store):
            await self.hidden(caller, "GET", STORE, store.id, store_id=store.id)
            return
        check_shown(self, caller, await self.seen(caller, "GET", STORE, store_id=store.id))
        await check_search(self, caller, store)

    async def learn(self, store: Store) -> None:
        """Read the indexing status of files where it depends on chance."""
        asked = select(StoreFile.file_id, StoreFile.status).where(StoreFile.store_id == store.id)
        async with self.backend.database.session() as session:
            for file_id, status in await session.execute(asked):
                store.files[file_id].status = status


def check_shown(fuzz: Fuzz, caller: Caller, shown: Mapping[str, Any]) -> None:
    """Check a store as a caller sees it."""
    store, world = fuzz.world.stores[shown["id"]], fuzz.world
    done = [key for key, one in world.within(caller, store).items() if one.status == "completed"]
    assert shown["file_counts"] == world.counts(caller, store)
    assert shown["usage_bytes"] == sum(len(world.files[one].text) for one in done)
    assert (shown["name"], set(shown["access"])) == (store.mark, store.access)


async def check_search(fuzz: Fuzz, caller: Caller, store: Store) -> None:
    """Check that a caller finds everything allowed, even if hidden chunks match better."""
    level, limit = fuzz.random.choice([None, 0, 1]), fuzz.random.choice([1, 2, 50])
    asked: dict[str, Any] = {"query": WORD, "max_num_results": limit}
    if level is not None:
        asked["filters"] = {"type": "eq", "key": "level", "value": level}
    expected = findable(fuzz, caller, [store], level)
    by_words = fuzz.random.random() < 0.5
    if by_words:
        weights = {"embedding_weight": 0, "text_weight": 1}
        asked["ranking_options"] = {"hybrid_search": weights}
    page = await fuzz.seen(caller, "POST", STORE + "/search", store_id=store.id, sent=asked)
    check_found([one["file_id"] for one in page["data"]], expected, limit)
    await check_marks(fuzz, caller, store)


async def check_marks(fuzz: Fuzz, caller: Caller, store: Store) -> None:
    """Check that the unique word of a file finds it, and only for its readers."""
    if not store.files:
        return
    file = fuzz.world.files[fuzz.random.choice(list(store.files))]
    weights = {"embedding_weight": 0, "text_weight": 1}
    asked = {"query": file.mark, "ranking_options": {"hybrid_search": weights}}
    page = await fuzz.seen(caller, "POST", STORE + "/search", store_id=store.id, sent=asked)
    found = {one["file_id"] for one in page["data"]}
    assert found == {file.id} & findable(fuzz, caller, [store])


def findable(
    fuzz: Fuzz, caller: Caller, stores: Collection[Store], level: int | None = None
) -> set[str]:
    """Choose files that the caller may read, in some of its stores."""
    return {
        file_id
        for store in stores
        for file_id, one in fuzz.world.within(caller, store).items()
        if one.status == "completed" and level in (None, one.attributes.get("level"))
    }


def check_found(found: Sequence[str], expected: set[str], limit: int) -> None:
    """Check that as many allowed files are found as fit; every text is one chunk."""
    assert set(found) <= expected
    assert len(set(found)) == len(found) == min(limit, len(expected))
