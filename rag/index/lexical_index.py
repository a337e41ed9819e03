"""Full-text search of chunks, ranked by BM25: FTS5 in SQLite, a table of words in PostgreSQL.

Each store has its own table, so that word statistics of one store do not affect another. Queries
are plain words: they have no syntax.
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
"""Maximum words of a query; further ones are ignored."""

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
"""English words that occur in almost every text. They cost most of the time and tell nothing."""


def text_index(dialect: Literal["sqlite", "postgresql"]) -> TextIndex:
    """Return the full-text index for a kind of database."""
    return SqlTextIndex(_SQLITE if dialect == "sqlite" else _POSTGRESQL)


def words(question: str) -> list[str]:
    """Return the distinct search words in order; stop words only if there are no others.

    Only letters and digits are kept, so that no database sees an operator.
    """
    found = (match[0] for match in _WORD.finditer(question.lower()))
    usable = list(dict.fromkeys(word for word in found if len(word) <= _LONGEST_WORD))
    telling = [word for word in usable if word not in STOP_WORDS]
    return (telling or usable)[:MAX_WORDS]


@dataclass(frozen=True, slots=True)
class _Statements:
    """The SQL of one kind of database. `{table}` stands for the table of a store.

    Attributes:
        create: creates the table.
        add: adds the chunks of `:version`.
        remove: removes the chunks of `:version`.
        search: selects `:limit` chunk ids and scores for `:query`, best first; `{filtered}` is a
            condition on the column `{chunk}`.
        chunk: the column with the chunk's id.
        listed: expression for the file ids in `:files`, to stand after IN.
        stores: selects the names of all tables.
        chunk_ids: selects the ids of all chunks in a table.
        quote: the character put around each word.
        either: the operator between alternative words.
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
        """Format words as a query of this database."""
        return self.either.join(f"{self.quote}{word}{self.quote}" for word in asked)


# FTS5 reads the text from `chunks`; a removal needs it too, so a chunk must be removed here first.
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
    # With `ORDER BY rank`, FTS5 would sort all matches; with `+rank`, SQLite keeps only the best.
    search="SELECT {table}.rowid, -rank FROM {table}"
    " WHERE {table} MATCH :query{filtered} ORDER BY +rank LIMIT :limit",
    chunk="{table}.rowid",
    listed="SELECT value FROM json_each(:files)",
    stores="SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE lexical_%'",
    # Rows come from `chunks`; only FTS5's table of sizes says which are indexed.
    chunk_ids="SELECT id FROM {table}_docsize",
    quote='"',
    either=" OR ",
)

# A row for each word of a chunk, and one with an empty word for the chunk itself. PostgreSQL's own
# ranking ignores how rare words are: its best nDCG@10 on Cranfield is 0.473, and BM25's is 0.534.
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
    """A `TextIndex` in the database that holds the chunks.

    Args:
        statements: the SQL of that database.
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
        """Return a condition that filters by file, with one parameter for any number of files."""
        return (
            f" AND {self._statements.chunk} {'NOT IN' if but else 'IN'} (SELECT chunks.id"
            " FROM chunks JOIN store_files ON store_files.id = chunks.store_file_id"
            f" WHERE store_files.file_id IN ({self._statements.listed}))"
        )


def _on(store_number: int, statement: str) -> TextClause:
    """Put a store's table name, which is built from an integer, into a statement."""
    return text(statement.replace("{table}", f"{_PREFIX}{store_number:d}"))
