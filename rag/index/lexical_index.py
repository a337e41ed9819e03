"""Full text of chunks, ranked by BM25: FTS5 in SQLite, and a table of words in PostgreSQL.

Each store has a table of its own, so that no store's words weigh in another's ranking. Questions
are words here: nothing in them is syntax.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from rag.index.protocols import FileFilter, TextHit, TextIndex

MAX_WORDS = 64
"""Of one question; the first ones count."""

_WORD = re.compile(r"\w+")
_PREFIX = "lexical_"
_LONGEST_WORD = 128

STOP_WORDS = frozenset(
    {
        "a", "about", "an", "and", "are", "as", "at", "be", "been", "by", "can", "could", "did",
        "do", "does", "for", "from", "had", "has", "have", "how", "if", "in", "into", "is", "it",
        "its", "may", "of", "on", "or", "shall", "should", "so", "such", "than", "that", "the",
        "their", "them", "then", "there", "these", "they", "this", "those", "to", "was", "were",
        "what", "when", "where", "which", "while", "who", "whom", "why", "will", "with", "would",
        "you", "your",
    }
)  # fmt: skip
"""English words that almost every text has: they cost most of a search, and tell nothing."""


def text_index(dialect: Literal["sqlite", "postgresql"]) -> TextIndex:
    """The full-text index of a kind of database."""
    return SqlTextIndex(_SQLITE if dialect == "sqlite" else _POSTGRESQL)


def words(question: str) -> list[str]:
    """The words to look for, each once, in their order; stop words only where there are no others.

    Letters and digits alone: a database takes no operator from them.
    """
    found = (match[0] for match in _WORD.finditer(question.lower()))
    usable = list(dict.fromkeys(word for word in found if len(word) <= _LONGEST_WORD))
    telling = [word for word in usable if word not in STOP_WORDS]
    return (telling or usable)[:MAX_WORDS]


@dataclass(frozen=True, slots=True)
class _Statements:
    """How one kind of database does it. `{table}` is the table of a store.

    Attributes:
        create: makes the table.
        add: the chunks of `:version`.
        remove: them again.
        search: `:limit` chunks and their scores for `:query`, best first; `{filtered}` is a
            condition on what is called `{chunk}`.
        chunk: see there.
        listed: the names in `:files`, as something that can stand after IN.
        stores: names of all tables.
        chunk_ids: of all that is in a table.
        quote: around a word.
        either: between words of which one is enough.
    """

    create: tuple[str, ...]
    add: str
    remove: str
    search: str
    chunk: str
    listed: str
    stores: str
    chunk_ids: str
    quote: str
    either: str

    def query(self, asked: Sequence[str]) -> str:
        """Words as the database takes them."""
        return self.either.join(f"{self.quote}{word}{self.quote}" for word in asked)


# The text itself stays in `chunks`: taking one out needs its text, so it comes before the chunk
# goes.
_SQLITE = _Statements(
    create=(
        (
            "CREATE VIRTUAL TABLE {table} USING fts5(text, content='chunks', content_rowid='id',"
            " tokenize='porter unicode61 remove_diacritics 2')"
        ),
    ),
    add="INSERT INTO {table} (rowid, text) SELECT id, text FROM chunks WHERE version = :version",
    remove="INSERT INTO {table} ({table}, rowid, text)"
    " SELECT 'delete', id, text FROM chunks WHERE version = :version",
    # Ordered by itself, FTS5 would sort all that match; SQLite keeps the best as they come.
    search="SELECT {table}.rowid, -rank FROM {table}"
    " WHERE {table} MATCH :query{filtered} ORDER BY +rank LIMIT :limit",
    chunk="{table}.rowid",
    listed="SELECT value FROM json_each(:files)",
    stores="SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE lexical_%'",
    # Its rows come from `chunks`; which of them are indexed, its sizes tell.
    chunk_ids="SELECT id FROM {table}_docsize",
    quote='"',
    either=" OR ",
)

# A row for each word of a chunk, and one without a word for the chunk itself. PostgreSQL's own
# ranks know no rare words: on Cranfield the best of them has an nDCG@10 of 0.473, and BM25 0.534.
_POSTGRESQL = _Statements(
    create=(
        (
            "CREATE TABLE {table} (word text, chunk_id bigint, count int NOT NULL,"
            " length int NOT NULL, PRIMARY KEY (word, chunk_id))"
        ),
        "CREATE INDEX ON {table} (chunk_id)",
    ),
    add="""
        WITH counted AS (
            SELECT id, lexeme, cardinality(positions) AS count
            FROM chunks, unnest(to_tsvector('english', text)) WHERE version = :version
        ), lengths AS (
            SELECT chunks.id, coalesce(sum(count), 0) AS length
            FROM chunks LEFT JOIN counted ON counted.id = chunks.id
            WHERE version = :version GROUP BY chunks.id
        )
        INSERT INTO {table} (word, chunk_id, count, length)
        SELECT '', id, 0, length FROM lengths UNION ALL
        SELECT lexeme, id, count, length FROM counted JOIN lengths USING (id)
    """,
    remove="DELETE FROM {table} WHERE chunk_id IN (SELECT id FROM chunks WHERE version = :version)",
    # BM25 with the constants of FTS5, k1 = 1.2 and b = 0.75.
    search="""
        WITH sizes AS (
            SELECT count(*) AS chunks, greatest(avg(length), 1) AS mean
            FROM {table} WHERE word = ''
        ), found AS (
            SELECT chunk_id, count, length, count(*) OVER (PARTITION BY word) AS holders
            FROM {table} WHERE word = ANY(tsvector_to_array(to_tsvector('english', :query)))
        )
        SELECT chunk_id, CAST(sum(
            ln(1 + (chunks - holders + 0.5) / (holders + 0.5))
            * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))
        ) AS double precision) AS score
        FROM found CROSS JOIN sizes WHERE true{filtered}
        GROUP BY chunk_id ORDER BY score DESC, chunk_id LIMIT :limit
    """,
    chunk="chunk_id",
    listed="SELECT json_array_elements_text(CAST(:files AS json))",
    stores="SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    r" AND tablename ~ '^lexical_\d+$'",
    chunk_ids="SELECT chunk_id FROM {table} WHERE word = ''",
    quote="",
    either=" ",
)


class SqlTextIndex:
    """`TextIndex` in the database that has the chunks.

    Args:
        statements: of its kind.
    """

    def __init__(self, statements: _Statements) -> None:
        self._statements = statements

    async def create(self, session: AsyncSession, store_number: int) -> None:
        """See `TextIndex.create`."""
        for statement in self._statements.create:
            await session.execute(_on(store_number, statement))

    async def drop(self, session: AsyncSession, store_number: int) -> None:
        """See `TextIndex.drop`."""
        await session.execute(_on(store_number, "DROP TABLE IF EXISTS {table}"))

    async def add(self, session: AsyncSession, store_number: int, version: str) -> None:
        """See `TextIndex.add`."""
        await session.execute(_on(store_number, self._statements.add), {"version": version})

    async def remove(self, session: AsyncSession, store_number: int, version: str) -> None:
        """See `TextIndex.remove`."""
        await session.execute(_on(store_number, self._statements.remove), {"version": version})

    async def search(
        self,
        session: AsyncSession,
        store_number: int,
        query: str,
        *,
        limit: int,
        files: FileFilter | None = None,
    ) -> list[TextHit]:
        """See `TextIndex.search`."""
        if not (asked := words(query)):
            return []
        parameters: dict[str, Any] = {"query": self._statements.query(asked), "limit": limit}
        filtered = ""
        if files is not None:
            filtered = self._filtered(but=files.but)
            parameters["files"] = json.dumps(list(files.files))
        search = self._statements.search.replace("{filtered}", filtered)
        rows = await session.execute(_on(store_number, search), parameters)
        return [TextHit(chunk_id, score) for chunk_id, score in rows]

    async def stores(self, session: AsyncSession) -> list[int]:
        """See `TextIndex.stores`."""
        names = await session.scalars(text(self._statements.stores))
        return sorted(int(name.removeprefix(_PREFIX)) for name in names)

    async def chunk_ids(self, session: AsyncSession, store_number: int) -> set[int]:
        """See `TextIndex.chunk_ids`."""
        return set(await session.scalars(_on(store_number, self._statements.chunk_ids)))

    def _filtered(self, *, but: bool) -> str:
        """A condition that lets only some files through; one parameter, however many there are."""
        return (
            f" AND {self._statements.chunk} {'NOT IN' if but else 'IN'} (SELECT chunks.id"
            " FROM chunks JOIN store_files ON store_files.id = chunks.store_file_id"
            f" WHERE store_files.file_id IN ({self._statements.listed}))"
        )


def _on(store_number: int, statement: str) -> TextClause:
    """A statement on the table of a store, whose name is a number of ours."""
    return text(statement.replace("{table}", f"{_PREFIX}{store_number:d}"))
