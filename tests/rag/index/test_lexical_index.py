"""The full-text index: one suite for both databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from rag.index.lexical_index import MAX_WORDS, text_index, words
from rag.index.protocols import FileFilter, TextIndex
from rag.schema import ChunkRow, File, StoreFile, VectorStore
from serving.domain.clock import utc_now
from serving.storage.database import Database
from serving.storage.schema import TenantRow

TEXTS = {
    "wings": ["The lift of a wing grows with its speed.", "Wings of bees beat fast."],
    "tails": ["A tail steers an aeroplane.", "Speed and drag, speed and drag, speed and drag."],
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """A store of two files, and its full text."""

    database: Database
    index: TextIndex
    number: int

    async def found(
        self, query: str, *, files: FileFilter | None = None, limit: int = 10
    ) -> list[str]:
        async with self.database.session() as session:
            hits = await self.index.search(session, self.number, query, limit=limit, files=files)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            keys = {hit.chunk_id: await session.get(ChunkRow, hit.chunk_id) for hit in hits}
            return [chunk.key for chunk in keys.values() if chunk is not None]

    async def remove(self, version: str) -> None:
        async with self.database.transaction() as session:
            await self.index.remove(session, self.number, version)


@pytest.fixture
async def shelf(database: Database) -> Shelf:
    index = text_index(database.dialect)
    async with database.transaction() as session:
        session.add(TenantRow(name="acme", created_at=utc_now(), weight=1.0))
        await session.flush()
        store = VectorStore(
            id="vs_1", tenant="acme", name="s", details={}, created_at=1, last_active_at=1
        )
        session.add(store)
        await session.flush()
        number = store.number
        await index.create(session, number)
    for at, (name, texts) in enumerate(TEXTS.items(), 1):
        await put(database, index, number, file=(at, name), texts=texts)
    return Shelf(database, index, number)


async def put(
    database: Database,
    index: TextIndex,
    number: int,
    *,
    file: tuple[int, str],
    texts: Sequence[str],
) -> None:
    at, name = file
    async with database.transaction() as session:
        session.add(
            File(
                id=name, tenant="acme", filename=name, purpose="user_data", bytes=1, sha256="0",
                media_type="text/plain", privacy="open", created_at=1,
            )
        )  # fmt: skip
        await session.flush()
        session.add(
            StoreFile(
                id=at, store_id="vs_1", file_id=name, created_at=1, status="completed",
                attributes={}, strategy="auto", chunk_tokens=800, overlap_tokens=400,
                version=name, usage_bytes=1, tries=1, lease_until=0.0,
            )
        )  # fmt: skip
        await session.flush()
        rows = [
            {
                "key": f"{name}:{position}", "store_number": number, "store_file_id": at,
                "version": name, "position": position, "tokens": 1, "text": text,
            }
            for position, text in enumerate(texts)
        ]  # fmt: skip
        await session.execute(insert(ChunkRow), rows)
        await index.add(session, number, name)


async def test_chunks_are_found_by_any_form_of_their_words(shelf: Shelf) -> None:
    assert set(await shelf.found("WINGS?")) == {"wings:0", "wings:1"}
    assert await shelf.found("What steered the aeroplanes?") == ["tails:0"]
    assert await shelf.found("submarine") == []


async def test_chunk_with_more_of_the_words_comes_first(shelf: Shelf) -> None:
    assert (await shelf.found("lift and speed of a wing"))[0] == "wings:0"
    assert len(await shelf.found("lift speed wing", limit=2)) == 2


async def test_rare_word_counts_for_more_than_a_common_one(shelf: Shelf) -> None:
    texts = [*(f"Speed number {at} of many speeds." for at in range(20)), "A rare bee."]
    await put(shelf.database, shelf.index, shelf.number, file=(3, "more"), texts=texts)
    assert (await shelf.found("speed bee"))[0] in {"more:20", "wings:1"}


async def test_chunk_without_words_is_indexed_and_not_found(shelf: Shelf) -> None:
    await put(shelf.database, shelf.index, shelf.number, file=(3, "empty"), texts=["... ?!"])
    async with shelf.database.session() as session:
        assert len(await shelf.index.chunk_ids(session, shelf.number)) == 5
    await shelf.remove("empty")
    async with shelf.database.session() as session:
        assert len(await shelf.index.chunk_ids(session, shelf.number)) == 4


async def test_files_are_filtered_before_they_are_ranked(shelf: Shelf) -> None:
    query = "speed of wings"
    assert await shelf.found("speed", files=FileFilter(["tails"]), limit=1) == ["tails:1"]
    assert set(await shelf.found(query, files=FileFilter(["tails"], but=True))) == {
        "wings:0", "wings:1",
    }  # fmt: skip
    assert await shelf.found(query, files=FileFilter([])) == []
    assert len(await shelf.found(query, files=FileFilter([], but=True))) == 3


async def test_any_number_of_files_can_be_filtered(shelf: Shelf) -> None:
    others = [f"file-{at}" for at in range(40_000)]
    assert await shelf.found("speed", files=FileFilter([*others, "wings"])) == ["wings:0"]
    assert len(await shelf.found("speed", files=FileFilter(others, but=True))) == 2


async def test_removed_version_is_found_no_more(shelf: Shelf) -> None:
    await shelf.remove("wings")
    assert await shelf.found("speed of wings") == ["tails:1"]
    async with shelf.database.session() as session:
        left = await shelf.index.chunk_ids(session, shelf.number)
        kept = [await session.get(ChunkRow, chunk_id) for chunk_id in left]
    assert {chunk.version for chunk in kept if chunk is not None} == {"tails"}


async def test_stores_have_tables_of_their_own(shelf: Shelf) -> None:
    async with shelf.database.transaction() as session:
        await shelf.index.create(session, 70)
        assert await shelf.index.stores(session) == [shelf.number, 70]
        assert await shelf.index.search(session, 70, "speed", limit=5) == []
        await shelf.index.drop(session, 70)
        await shelf.index.drop(session, 70)
        assert await shelf.index.stores(session) == [shelf.number]


@pytest.mark.parametrize(
    "query",
    ['"', "speed\x00drag", "NEAR(speed drag)", "text:speed", "speed*", "^speed", "-speed",
     "' OR 1=1 --", "speed & !drag", "\ud800 speed", "(", "speed " * 5000, "\ufdfd \u901f\u5ea6"],
)  # fmt: skip
async def test_nothing_in_a_question_is_syntax(shelf: Shelf, query: str) -> None:
    found = await shelf.found(query)
    assert ("tails:1" in found) == ("speed" in query)


async def test_question_without_words_finds_nothing(shelf: Shelf) -> None:
    assert await shelf.found(" ?! ... ") == []


def test_common_words_are_left_out_unless_there_are_no_others() -> None:
    assert words("What is the lift of a wing?") == ["lift", "wing"]
    assert words("to be or not") == ["not"]
    assert words("Who are they?") == ["who", "are", "they"]


@given(st.text(max_size=400))
def test_words_are_letters_and_digits_each_once(question: str) -> None:
    found = words(question)
    assert len(found) == len(set(found)) <= MAX_WORDS
    assert all(char.isalnum() or char == "_" for word in found for char in word)
