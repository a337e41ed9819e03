"""Files in SQL: visibility, order of lists, and what a deletion removes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import pytest

from rag.errors import NotThere, Refused
from rag.pages import PageQuery
from rag.schema import ChunkRow, File, FileAccess, StoreFile
from rag.stores.access_lists import Reader
from tests.rag.library import ACME, ANN, LEGAL, OTHER, SALES, STRANGERS, Place

HOUR_S = 3600


async def listed(
    place: Place,
    reader: Reader = ACME,
    *,
    order: Literal["asc", "desc"] = "asc",
    limit: int = 100,
    after: str | None = None,
    purpose: str | None = None,
) -> tuple[list[str], bool]:
    page = await place.files.list(reader, PageQuery(limit, order, after), purpose=purpose)
    return [file.id for file in page.rows], page.has_more


async def test_file_is_told_as_it_was_made(place: Place) -> None:
    made = await place.files.create(
        ACME, file_id="file-1", filename="a.pdf", purpose="assistants", media_type="text/plain",
        size=2**33, sha256="ab", privacy="open", access=["user:ann", "tenant", "user:ann"],
        expires_after_s=HOUR_S,
    )  # fmt: skip
    assert (made.id, made.tenant, made.filename, made.purpose, made.media_type) == (
        "file-1", "acme", "a.pdf", "assistants", "text/plain",
    )  # fmt: skip
    assert (made.bytes, made.sha256, made.privacy) == (2**33, "ab", "open")
    assert (made.created_at, made.expires_at) == (1_000_000, 1_000_000 + HOUR_S)
    assert list(made.access) == ["tenant", "user:ann"]
    assert await place.files.get(ACME, "file-1") == made


@pytest.mark.parametrize(
    ("reader", "access"),
    [(ACME, ["tenant"]), (LEGAL, ["group:legal"]), (ANN, ["user:ann"])],
    ids=["tenant", "group", "user"],
)
async def test_file_is_for_the_narrowest_list_of_its_uploader(
    place: Place, reader: Reader, access: list[str]
) -> None:
    await place.upload("file-1", reader)
    assert list((await place.files.get(reader, "file-1")).access) == access


CALLS: dict[str, Callable[[Place, Reader, str], Awaitable[object]]] = {
    "get": lambda place, reader, name: place.files.get(reader, name),
    "modify": lambda place, reader, name: place.files.modify(reader, name, privacy="open"),
    "delete": lambda place, reader, name: place.files.delete(reader, name),
}
EACH_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@EACH_CALL
@pytest.mark.parametrize("stranger", STRANGERS, ids=["group", "tenant"])
async def test_file_of_others_is_told_like_one_that_never_was(
    place: Place, stranger: Reader, call: Callable[[Place, Reader, str], Awaitable[object]]
) -> None:
    await place.upload("file-1", LEGAL)
    errors = []
    for name in ("file-1", "file-2"):
        with pytest.raises(NotThere) as caught:
            await call(place, stranger, name)
        errors.append((caught.value.message, caught.value.param))
    assert errors[0] == errors[1]
    assert await listed(place, stranger) == ([], False)
    assert (await place.files.get(LEGAL, "file-1")).privacy == "local_only"


@EACH_CALL
async def test_expired_file_is_not_there(
    place: Place, call: Callable[[Place, Reader, str], Awaitable[object]]
) -> None:
    await place.upload("file-1", expires_after_s=HOUR_S)
    place.clock.now += HOUR_S
    with pytest.raises(NotThere):
        await call(place, ACME, "file-1")
    assert await listed(place) == ([], False)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_have_every_file_once_though_many_are_as_old(
    place: Place, order: Literal["asc", "desc"]
) -> None:
    for number in (4, 1, 3, 0, 2, 6, 5):
        place.clock.now += number % 2
        await place.upload(f"file-{number}")
    everything, _ = await listed(place, order=order)
    for limit in (1, 2, 3, 7):
        walked: list[str] = []
        more = True
        while more:
            after = walked[-1] if walked else None
            rows, more = await listed(place, order=order, limit=limit, after=after)
            walked += rows
        assert walked == everything
    assert everything[:: 1 if order == "asc" else -1] == [
        *("file-4", "file-1", "file-0", "file-2", "file-3", "file-6", "file-5")
    ]


async def test_list_has_only_the_reader_s_files_and_knows_whether_more_of_them_follow(
    place: Place,
) -> None:
    await place.upload("file-a", LEGAL)
    await place.upload("file-b", SALES)
    await place.upload("file-c", OTHER)
    await place.upload("file-d", access=["group:sales", "tenant"])
    assert await listed(place, LEGAL) == (["file-a", "file-d"], False)
    assert await listed(place, SALES, limit=2) == (["file-b", "file-d"], False)
    assert await listed(place, SALES, limit=1) == (["file-b"], True)


@pytest.mark.parametrize("cursor", ["file-a", "file-9"], ids=["others'", "nobody's"])
async def test_cursor_that_is_not_listed_is_refused(place: Place, cursor: str) -> None:
    await place.upload("file-a", LEGAL)
    with pytest.raises(Refused) as caught:
        await listed(place, SALES, after=cursor)
    assert caught.value.param == "after"


async def test_list_of_a_purpose_goes_on_after_a_file_of_another(place: Place) -> None:
    await place.upload("file-1", purpose="batch")
    await place.upload("file-2")
    await place.upload("file-3", purpose="batch")
    assert await listed(place, purpose="batch", after="file-2") == (["file-3"], False)


async def test_change_of_one_thing_leaves_the_other(place: Place) -> None:
    await place.upload("file-1")
    changed = await place.files.modify(ACME, "file-1", access=["tenant", "group:legal"])
    assert (list(changed.access), changed.privacy) == (["group:legal", "tenant"], "local_only")
    changed = await place.files.modify(ACME, "file-1", privacy="scrubbed")
    assert (list(changed.access), changed.privacy) == (["group:legal", "tenant"], "scrubbed")
    assert await place.files.get(ACME, "file-1") == changed


async def test_file_can_be_taken_from_others_at_once(place: Place) -> None:
    await place.upload("file-1")
    await place.files.modify(LEGAL, "file-1", access=["group:legal"])
    with pytest.raises(NotThere):
        await place.files.get(SALES, "file-1")


@pytest.mark.parametrize(
    "access",
    [["user:bob"], ["group:sales"], [], ["everybody"], ["tenant", "group:"], ["tenant\n"]],
    ids=["another", "other_group", "nobody", "unknown", "unnamed", "newline"],
)
async def test_access_list_is_refused_that_is_malformed_or_locks_its_writer_out(
    place: Place, access: Sequence[str]
) -> None:
    await place.upload("file-1", LEGAL)
    with pytest.raises(Refused) as caught:
        await place.upload("file-2", LEGAL, access=access)
    assert caught.value.param == "access"
    with pytest.raises(Refused) as caught:
        await place.files.modify(LEGAL, "file-1", access=access)
    assert caught.value.param == "access"
    assert await place.count(File) == 1
    assert list((await place.files.get(LEGAL, "file-1")).access) == ["group:legal"]


async def test_refusal_to_lock_oneself_out_says_what_to_list(place: Place) -> None:
    with pytest.raises(Refused, match="include one of: group:legal, tenant, user:ann"):
        await place.upload("file-1", ANN, access=["group:sales"])


async def test_deleted_file_leaves_every_store_and_intents_for_the_rest(place: Place) -> None:
    await place.upload("file-1")
    await place.upload("file-2")
    stores = [await place.store("file-1", "file-2") for _ in range(2)]
    versions = [await place.publish(store, "file-1", "one two", "three") for store in stores]
    await place.publish(stores[0], "file-2", "one")
    await place.files.delete(ACME, "file-1")
    assert await place.intents() == {("blob", "file-1"), *(("erase", one) for one in versions)}
    for store_id, indexed in zip(stores, (1, 0), strict=True):
        counts = (await place.stores.get(ACME, store_id)).counts
        assert (counts.total, counts.completed) == (1, indexed)
    assert (await place.count(ChunkRow), await place.count(StoreFile)) == (1, 2)
    async with place.database.session() as session:
        hits = await place.text.search(session, (await place.tables())[0], "one", limit=9)
    assert len(hits) == 1


async def test_deleted_file_that_is_in_no_store_leaves_its_bytes_to_an_intent(
    place: Place,
) -> None:
    await place.upload("file-1")
    await place.files.delete(ACME, "file-1")
    assert await place.intents() == {("blob", "file-1")}
    assert (await place.count(File), await place.count(FileAccess)) == (0, 0)
