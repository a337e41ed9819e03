"""What callers do with files and vector stores: an action per route, with both of its cases.

Each asks for something that is hidden from its caller, if there is any, and for something that is
not, and tells the model what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from tests.serving.knowledge.access_fuzz import (
    BATCH,
    BATCHES,
    BOTH,
    CHATS,
    FILE,
    FILES,
    IN_STORE,
    IN_STORE_FILE,
    STORE,
    STORES,
    WITHOUT_HIDDEN,
    WORD,
    Fuzz,
    Route,
    check_search,
    check_shown,
    findable,
)
from tests.serving.knowledge.access_model import Caller, File, Store, may_read, tokens
from tests.serving.knowledge.backend import CHAT, Backend

Action = Callable[[Fuzz, Caller], Awaitable[None]]
ACTIONS: dict[Route, Action] = {}


def does(method: str, path: str) -> Callable[[Action], Action]:
    """Register the action that calls a route."""

    def mark(action: Action) -> Action:
        ACTIONS[method, path] = action
        return action

    return mark


async def populated(backend: Backend, seed: int) -> Fuzz:
    """Callers of two tenants, and files and stores of each."""
    fuzz = Fuzz(backend, seed)
    await fuzz.open_keys()
    for caller in (*fuzz.callers, *fuzz.callers):
        await upload_file(fuzz, caller)
    for caller in fuzz.callers:
        await create_store(fuzz, caller)
    return fuzz


async def cover(fuzz: Fuzz, route: Route) -> None:
    """Call a route until both an allowed and a hidden object were requested."""
    wanted = {"seen"} if route == WITHOUT_HIDDEN else BOTH
    for caller in fuzz.callers:
        if fuzz.covered[route] != wanted:
            await ACTIONS[route](fuzz, caller)
    assert fuzz.covered[route] == wanted, route


@does("POST", FILES)
async def upload_file(fuzz: Fuzz, caller: Caller) -> None:
    mark = fuzz.a_mark()
    words = [mark, *[WORD] * fuzz.random.randint(1, 9)]
    text = " " if fuzz.random.random() < 0.1 else " ".join(words)
    access = fuzz.random.choice([None, fuzz.an_access_list()])
    fields: dict[str, Any] = {"purpose": "assistants"}
    if access is not None:
        fields["access"] = orjson.dumps(access)
    form = {"files": {"file": (f"{mark}.txt", text.encode())}, "data": fields}
    if access is not None and caller.entries.isdisjoint(access):
        assert (await fuzz.call(caller, "POST", FILES, form=form)).status_code == 400
        return
    shown = await fuzz.seen(caller, "POST", FILES, form=form)
    file = File(shown["id"], caller.tenant, mark, text, set(access or caller.own))
    assert set(shown["access"]) == file.access
    fuzz.world.add_file(file)


@does("GET", FILES)
async def list_files(fuzz: Fuzz, caller: Caller) -> None:
    after = {"after": fuzz.a_hidden(caller, "file-")}
    await fuzz.hidden(caller, "GET", FILES, after["after"], status=400, query=after)
    shown = await fuzz.pages(caller, FILES)
    assert sorted(one["id"] for one in shown) == sorted(fuzz.world.files_of(caller))


@does("GET", FILE)
async def get_file(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "file-")
    await fuzz.hidden(caller, "GET", FILE, hidden, file_id=hidden)
    if file := fuzz.a_file(caller):
        shown = await fuzz.seen(caller, "GET", FILE, file_id=file.id)
        assert shown["filename"] == f"{file.mark}.txt"


@does("GET", FILE + "/content")
async def get_content(fuzz: Fuzz, caller: Caller) -> None:
    path, hidden = FILE + "/content", fuzz.a_hidden(caller, "file-")
    await fuzz.hidden(caller, "GET", path, hidden, file_id=hidden)
    if file := fuzz.a_file(caller):
        assert await fuzz.seen(caller, "GET", path, file_id=file.id) == file.text


@does("POST", FILE)
async def change_file(fuzz: Fuzz, caller: Caller) -> None:
    """The next call of each caller sees the change."""
    access, hidden = fuzz.an_access_list(), fuzz.a_hidden(caller, "file-")
    mine = {"access": sorted(caller.entries)}
    await fuzz.hidden(caller, "POST", FILE, hidden, file_id=hidden, sent=mine)
    if (file := fuzz.a_file(caller)) is None:
        return
    how: dict[str, Any] = {"file_id": file.id, "sent": {"access": access}}
    if caller.entries.isdisjoint(access):
        assert (await fuzz.call(caller, "POST", FILE, **how)).status_code == 400
        return
    await fuzz.seen(caller, "POST", FILE, **how)
    file.access = set(access)
    holders = fuzz.world.holders(file.id)
    for fellow in fuzz.fellows(caller):
        for store in holders[:2]:
            await fuzz.check_store(fellow, store)


@does("DELETE", FILE)
async def delete_file(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "file-")
    await fuzz.hidden(caller, "DELETE", FILE, hidden, file_id=hidden)
    if file := fuzz.a_file(caller):
        await fuzz.seen(caller, "DELETE", FILE, file_id=file.id)
        fuzz.world.delete_file(file.id)


@does("POST", STORES)
async def create_store(fuzz: Fuzz, caller: Caller) -> None:
    mark, access = fuzz.a_mark(), fuzz.random.choice([None, fuzz.an_access_list()])
    files, hidden = fuzz.some_files(caller), fuzz.a_hidden(caller, "file-")
    wanted = {"name": mark, "metadata": {"mark": mark}}
    refused = wanted | {"file_ids": [*files, hidden]}
    await fuzz.hidden(caller, "POST", STORES, hidden, sent=refused)
    sent = wanted | {"file_ids": files} | ({} if access is None else {"access": access})
    if access is not None and caller.entries.isdisjoint(access):
        assert (await fuzz.call(caller, "POST", STORES, sent=sent)).status_code == 400
        return
    shown = await fuzz.seen(caller, "POST", STORES, sent=sent)
    assert shown["file_counts"]["total"] == len(files)
    store = Store(shown["id"], caller.tenant, mark, set(access or caller.own))
    fuzz.world.add_store(store)
    fuzz.world.attach(store, files, {})


@does("GET", STORES)
async def list_stores(fuzz: Fuzz, caller: Caller) -> None:
    for cursor in ("after", "before"):
        hidden = fuzz.a_hidden(caller, "vs_")
        await fuzz.hidden(caller, "GET", STORES, hidden, status=400, query={cursor: hidden})
    shown = await fuzz.pages(caller, STORES)
    assert sorted(one["id"] for one in shown) == sorted(fuzz.world.stores_of(caller))
    for one in shown:
        check_shown(fuzz, caller, one)


@does("GET", STORE)
async def get_store(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "vs_")
    await fuzz.hidden(caller, "GET", STORE, hidden, store_id=hidden)
    if store := fuzz.a_store(caller):
        check_shown(fuzz, caller, await fuzz.seen(caller, "GET", STORE, store_id=store.id))


@does("POST", STORE)
async def change_store(fuzz: Fuzz, caller: Caller) -> None:
    """The next call of each caller sees the change."""
    access, hidden = fuzz.an_access_list(), fuzz.a_hidden(caller, "vs_")
    mine = {"access": sorted(caller.entries)}
    await fuzz.hidden(caller, "POST", STORE, hidden, store_id=hidden, sent=mine)
    if (store := fuzz.a_store(caller)) is None:
        return
    how: dict[str, Any] = {"store_id": store.id, "sent": {"access": access}}
    if caller.entries.isdisjoint(access):
        assert (await fuzz.call(caller, "POST", STORE, **how)).status_code == 400
        return
    await fuzz.seen(caller, "POST", STORE, **how)
    store.access = set(access)
    for fellow in fuzz.fellows(caller):
        await fuzz.check_store(fellow, store)


@does("DELETE", STORE)
async def delete_store(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "vs_")
    await fuzz.hidden(caller, "DELETE", STORE, hidden, store_id=hidden)
    store = fuzz.a_store(caller)
    if store is not None and len(fuzz.world.stores) > 6:
        await fuzz.seen(caller, "DELETE", STORE, store_id=store.id)
        del fuzz.world.stores[store.id]


@does("POST", STORE + "/search")
async def search_store(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "vs_")
    asked = {"query": WORD}
    await fuzz.hidden(caller, "POST", STORE + "/search", hidden, store_id=hidden, sent=asked)
    if store := fuzz.a_store(caller):
        await check_search(fuzz, caller, store)


@does("POST", CHATS)
async def chat(fuzz: Fuzz, caller: Caller) -> None:
    """The answer repeats the whole prompt."""
    asked: dict[str, Any] = {
        "model": CHAT,
        "messages": [{"role": "user", "content": WORD}],
        "include": ["file_search_call.results"],
    }
    stores = list(fuzz.world.stores_of(caller).values())[-2:]
    mine, hidden = [store.id for store in stores], fuzz.a_hidden(caller, "vs_")
    sent = asked | {"file_search": {"vector_store_ids": [*mine, hidden]}}
    await fuzz.hidden(caller, "POST", CHATS, hidden, sent=sent)
    if not mine:
        return
    asked["file_search"] = {"vector_store_ids": mine, "max_num_results": 50}
    answer = await fuzz.seen(caller, "POST", CHATS, sent=asked)
    message, expected = answer["choices"][0]["message"], findable(fuzz, caller, stores)
    assert {one["file_id"] for one in message["annotations"]} == expected
    assert {one["file_id"] for one in message["file_search_call"]["results"]} == expected
    assert tokens(message["content"]) == {fuzz.world.files[one].mark for one in expected}


@does("POST", IN_STORE)
async def attach_file(fuzz: Fuzz, caller: Caller) -> None:
    store, file = fuzz.a_store(caller), fuzz.a_file(caller)
    if store is None or file is None:
        return
    level = {"level": fuzz.random.randint(0, 1)}
    sent = {"file_id": file.id, "attributes": level}
    shut, buried = fuzz.a_hidden(caller, "vs_"), fuzz.a_hidden(caller, "file-")
    await fuzz.hidden(caller, "POST", IN_STORE, shut, store_id=shut, sent=sent)
    refused = sent | {"file_id": buried}
    await fuzz.hidden(caller, "POST", IN_STORE, buried, store_id=store.id, sent=refused)
    await fuzz.seen(caller, "POST", IN_STORE, store_id=store.id, sent=sent)
    fuzz.world.attach(store, [file.id], level)


@does("GET", IN_STORE)
async def list_store_files(fuzz: Fuzz, caller: Caller) -> None:
    hidden = fuzz.a_hidden(caller, "vs_")
    await fuzz.hidden(caller, "GET", IN_STORE, hidden, store_id=hidden)
    if place := fuzz.buried(caller):
        store, hidden = place
        after = {"after": hidden}
        how: dict[str, Any] = {"store_id": store.id, "query": after}
        await fuzz.hidden(caller, "GET", IN_STORE, hidden, status=400, **how)
    if mine := fuzz.a_store(caller):
        shown = await fuzz.pages(caller, IN_STORE, store_id=mine.id)
        within = fuzz.world.within(caller, mine)
        assert {one["id"]: one["status"] for one in shown} == {
            key: one.status for key, one in within.items()
        }


async def refuse_store_file(
    fuzz: Fuzz, caller: Caller, method: str, path: str, sent: Any = None
) -> None:
    """Neither a file in another's store, nor another's file in a store that the caller reads."""
    hidden = fuzz.a_hidden(caller, "vs_")
    within = next(iter(fuzz.world.stores[hidden].files), fuzz.a_hidden(caller, "file-"))
    how: dict[str, Any] = {"store_id": hidden, "file_id": within, "sent": sent}
    await fuzz.hidden(caller, method, path, hidden, **how)
    if place := fuzz.buried(caller):
        store, hidden = place
        how = {"store_id": store.id, "file_id": hidden, "sent": sent}
        await fuzz.hidden(caller, method, path, hidden, **how)


@does("GET", IN_STORE_FILE)
async def get_store_file(fuzz: Fuzz, caller: Caller) -> None:
    await refuse_store_file(fuzz, caller, "GET", IN_STORE_FILE)
    if place := fuzz.a_store_file(caller):
        store, file_id = place
        how: dict[str, Any] = {"store_id": store.id, "file_id": file_id}
        shown = await fuzz.seen(caller, "GET", IN_STORE_FILE, **how)
        known = store.files[file_id]
        assert (shown["status"], shown["attributes"]) == (known.status, known.attributes)


@does("GET", IN_STORE_FILE + "/content")
async def get_store_content(fuzz: Fuzz, caller: Caller) -> None:
    path = IN_STORE_FILE + "/content"
    await refuse_store_file(fuzz, caller, "GET", path)
    if place := fuzz.a_store_file(caller):
        store, file_id = place
        how: dict[str, Any] = {"store_id": store.id, "file_id": file_id}
        if store.files[file_id].status != "completed":
            assert (await fuzz.call(caller, "GET", path, **how)).status_code == 400
            return
        shown = await fuzz.seen(caller, "GET", path, **how)
        assert [one["text"] for one in shown["data"]] == [fuzz.world.files[file_id].text]


@does("POST", IN_STORE_FILE)
async def change_store_file(fuzz: Fuzz, caller: Caller) -> None:
    sent = {"attributes": {"level": fuzz.random.randint(0, 1)}}
    await refuse_store_file(fuzz, caller, "POST", IN_STORE_FILE, sent)
    if place := fuzz.a_store_file(caller):
        store, file_id = place
        how: dict[str, Any] = {"store_id": store.id, "file_id": file_id, "sent": sent}
        await fuzz.seen(caller, "POST", IN_STORE_FILE, **how)
        store.files[file_id].attributes = sent["attributes"]
        await fuzz.check_store(caller, store)


@does("DELETE", IN_STORE_FILE)
async def detach_file(fuzz: Fuzz, caller: Caller) -> None:
    await refuse_store_file(fuzz, caller, "DELETE", IN_STORE_FILE)
    if place := fuzz.a_store_file(caller):
        store, file_id = place
        unused = fuzz.random.random() < 0.5
        how: dict[str, Any] = {"store_id": store.id, "file_id": file_id}
        await fuzz.seen(caller, "DELETE", IN_STORE_FILE, query={"delete_unused": unused}, **how)
        fuzz.world.detach(store, file_id)
        if unused and not fuzz.world.holders(file_id):
            fuzz.world.delete_file(file_id)
        await fuzz.check_store(caller, store)


@does("POST", BATCHES)
async def create_batch(fuzz: Fuzz, caller: Caller) -> None:
    store, files = fuzz.a_store(caller), fuzz.some_files(caller)
    if store is None or not files:
        return
    level = {"level": fuzz.random.randint(0, 1)}
    sent = {"file_ids": files, "attributes": level}
    shut, buried = fuzz.a_hidden(caller, "vs_"), fuzz.a_hidden(caller, "file-")
    await fuzz.hidden(caller, "POST", BATCHES, shut, store_id=shut, sent=sent)
    refused = sent | {"file_ids": [*files, buried]}
    await fuzz.hidden(caller, "POST", BATCHES, buried, store_id=store.id, sent=refused)
    shown = await fuzz.seen(caller, "POST", BATCHES, store_id=store.id, sent=sent)
    assert shown["file_counts"]["total"] == len(files)
    fuzz.world.attach(store, files, level)
    fuzz.world.add_batch(store, shown["id"], files)
    if fuzz.random.random() < 0.5:
        await cancel_at_once(fuzz, store, shown["id"])


async def cancel_at_once(fuzz: Fuzz, store: Store, batch_id: str) -> None:
    """Another caller cancels what may already be indexed, and only files that both may read."""
    caller, path = fuzz.random.choice(fuzz.callers), BATCH + "/cancel"
    how: dict[str, Any] = {"store_id": store.id, "batch_id": batch_id}
    if not may_read(caller, store):
        await fuzz.hidden(caller, "POST", path, store.id, **how)
        return
    expected = {key: one.status for key, one in store.files.items()}
    assert (await fuzz.call(caller, "POST", path, **how)).status_code == 200
    await fuzz.backend.indexed()
    await fuzz.learn(store)
    mine = fuzz.world.within(caller, store)
    for file_id, one in store.files.items():
        allowed = file_id in mine and file_id in store.batches[batch_id]
        assert one.status == expected[file_id] or (allowed and one.status == "cancelled")


async def refuse_batch(fuzz: Fuzz, caller: Caller, method: str, path: str) -> None:
    """Neither another's batch, nor another's batch under a store of the caller."""
    hidden = fuzz.world.hidden_ids(caller, "vsfb_")
    if not hidden:
        return
    batch_id = fuzz.random.choice(hidden)
    owner = next(one for one in fuzz.world.stores.values() if batch_id in one.batches)
    how: dict[str, Any] = {"store_id": owner.id, "batch_id": batch_id}
    await fuzz.hidden(caller, method, path, owner.id, **how)
    if store := fuzz.a_store(caller):
        how["store_id"] = store.id
        await fuzz.hidden(caller, method, path, batch_id, **how)


async def show_batch(fuzz: Fuzz, caller: Caller, method: str, path: str) -> None:
    await refuse_batch(fuzz, caller, method, path)
    if known := fuzz.world.batches_of(caller):
        store, batch_id = fuzz.random.choice(known)
        shown = await fuzz.seen(caller, method, path, store_id=store.id, batch_id=batch_id)
        assert shown["file_counts"] == fuzz.world.counts(caller, store, batch_id)


@does("GET", BATCH)
async def get_batch(fuzz: Fuzz, caller: Caller) -> None:
    await show_batch(fuzz, caller, "GET", BATCH)


@does("POST", BATCH + "/cancel")
async def cancel_batch(fuzz: Fuzz, caller: Caller) -> None:
    """Cancel a completed batch, which has no effect."""
    await show_batch(fuzz, caller, "POST", BATCH + "/cancel")


@does("GET", BATCH + "/files")
async def list_batch_files(fuzz: Fuzz, caller: Caller) -> None:
    path = BATCH + "/files"
    await refuse_batch(fuzz, caller, "GET", path)
    if known := fuzz.world.batches_of(caller):
        store, batch_id = fuzz.random.choice(known)
        shown = await fuzz.pages(caller, path, store_id=store.id, batch_id=batch_id)
        mine = store.batches[batch_id] & fuzz.world.within(caller, store).keys()
        assert sorted(one["id"] for one in shown) == sorted(mine)
