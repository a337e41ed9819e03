"""A plain model of who may see which files and vector stores, to check answers against.

Knows no SQL and no index. A thing that was deleted is hidden from everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(r"(?:file-|vs_|vsfb_)[0-9a-f]{32}|mark[0-9a-f]{12}")
"""Tokens that reveal an object: its id, and the mark in its name and text."""

STATUSES = ("in_progress", "completed", "failed", "cancelled")


def tokens(text: str) -> set[str]:
    return set(TOKEN.findall(text))


@dataclass(frozen=True)
class Caller:
    """A key and its access-list entries."""

    key: str
    tenant: str
    entries: frozenset[str]

    @classmethod
    def of(cls, key: str, tenant: str, groups: Iterable[str], user: str | None) -> Caller:
        named = {f"group:{group}" for group in groups} | ({f"user:{user}"} if user else set())
        return cls(key, tenant, frozenset(named | {"tenant"}))

    @property
    def own(self) -> set[str]:
        """The default access list of what it creates."""
        users = {one for one in self.entries if one.startswith("user:")}
        return users or {one for one in self.entries if one != "tenant"} or {"tenant"}


@dataclass
class File:
    id: str
    tenant: str
    mark: str
    text: str
    access: set[str]

    @property
    def readable(self) -> bool:
        """Whether it contains anything to index."""
        return bool(self.text.strip())


@dataclass
class Attached:
    """A file in a store."""

    status: str
    attributes: Mapping[str, Any]


@dataclass
class Store:
    id: str
    tenant: str
    mark: str
    access: set[str]
    files: dict[str, Attached] = field(default_factory=dict)
    batches: dict[str, set[str]] = field(default_factory=dict)


@dataclass
class World:
    """All objects that exist or ever existed."""

    files: dict[str, File] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)
    ever: set[str] = field(default_factory=set)

    def add_file(self, file: File) -> None:
        self.files[file.id] = file
        self.ever |= {file.id, file.mark}

    def add_store(self, store: Store) -> None:
        self.stores[store.id] = store
        self.ever |= {store.id, store.mark}

    def attach(self, store: Store, file_ids: Iterable[str], attributes: Mapping[str, Any]) -> None:
        """Attach files, which count as indexed if they can be."""
        for file_id in file_ids:
            status = "completed" if self.files[file_id].readable else "failed"
            store.files[file_id] = Attached(status, attributes)

    def add_batch(self, store: Store, batch_id: str, file_ids: Iterable[str]) -> None:
        store.batches[batch_id] = set(file_ids)
        self.ever.add(batch_id)

    def detach(self, store: Store, file_id: str) -> None:
        store.files.pop(file_id, None)
        for in_batch in store.batches.values():
            in_batch.discard(file_id)

    def holders(self, file_id: str) -> list[Store]:
        return [store for store in self.stores.values() if file_id in store.files]

    def delete_file(self, file_id: str) -> None:
        del self.files[file_id]
        for store in self.stores.values():
            self.detach(store, file_id)

    def files_of(self, caller: Caller) -> dict[str, File]:
        return {one.id: one for one in self.files.values() if may_read(caller, one)}

    def stores_of(self, caller: Caller) -> dict[str, Store]:
        return {one.id: one for one in self.stores.values() if may_read(caller, one)}

    def batches_of(self, caller: Caller) -> list[tuple[Store, str]]:
        """Return the batches that it may request, with their stores."""
        return [(store, one) for store in self.stores_of(caller).values() for one in store.batches]

    def within(self, caller: Caller, store: Store) -> dict[str, Attached]:
        """Return what it sees in a store of its own."""
        mine = self.files_of(caller)
        return {one: attached for one, attached in store.files.items() if one in mine}

    def counts(self, caller: Caller, store: Store, batch_id: str | None = None) -> dict[str, int]:
        """Return `file_counts` of a store, or of one of its batches."""
        among = store.files if batch_id is None else store.batches[batch_id]
        seen = [one.status for key, one in self.within(caller, store).items() if key in among]
        return {status: seen.count(status) for status in STATUSES} | {"total": len(seen)}

    def hidden_from(self, caller: Caller) -> set[str]:
        """Return the tokens of everything that is hidden from it."""
        shown = {one for file in self.files_of(caller).values() for one in (file.id, file.mark)}
        for store in self.stores_of(caller).values():
            shown |= {store.id, store.mark, *store.batches}
        return self.ever - shown

    def hidden_ids(self, caller: Caller, prefix: str) -> list[str]:
        """Return the existing ids of one kind that are hidden from it, oldest first."""
        batches = (batch for store in self.stores.values() for batch in store.batches)
        there = (*self.files, *self.stores, *batches)
        hidden = self.hidden_from(caller)
        return [one for one in there if one in hidden and one.startswith(prefix)]


def may_read(caller: Caller, thing: File | Store) -> bool:
    return caller.tenant == thing.tenant and not caller.entries.isdisjoint(thing.access)
