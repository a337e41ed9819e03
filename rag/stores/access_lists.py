"""Access lists: who may read a file or a vector store. Without an entry, nobody may."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, select

from rag.schema import File, FileAccess, VectorStore, VectorStoreAccess

ENTRY = re.compile(r"tenant|(group|user):[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class Reader:
    """The caller of a read: a tenant, and the access-list entries that apply to the caller."""

    tenant: str
    entries: frozenset[str]

    @classmethod
    def of(cls, tenant: str, groups: Sequence[str] = (), user: str | None = None) -> Reader:
        """Return the reader for a tenant, some groups, and optionally a user."""
        entries = {"tenant", *(f"group:{group}" for group in groups)}
        if user is not None:
            entries.add(f"user:{user}")
        return cls(tenant, frozenset(entries))

    @property
    def own(self) -> list[str]:
        """The reader's narrowest access list: the user, else the groups, else the whole tenant."""
        for kind in ("user:", "group:"):
            if found := sorted(entry for entry in self.entries if entry.startswith(kind)):
                return found
        return ["tenant"]


def file_readable(reader: Reader) -> ColumnElement[bool]:
    """Whether the reader may read the current `files` row."""
    listed = select(FileAccess.entry).where(
        FileAccess.file_id == File.id, FileAccess.entry.in_(sorted(reader.entries))
    )
    return (File.tenant == reader.tenant) & exists(listed)


def store_readable(reader: Reader) -> ColumnElement[bool]:
    """Whether the reader may read the current `vector_stores` row."""
    listed = select(VectorStoreAccess.entry).where(
        VectorStoreAccess.store_id == VectorStore.id,
        VectorStoreAccess.entry.in_(sorted(reader.entries)),
    )
    return (VectorStore.tenant == reader.tenant) & exists(listed)
