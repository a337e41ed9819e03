"""Who may see what of files and vector stores, as a plain model: what answers are held to.

Knows no SQL and no index. A thing that was deleted is hidden from everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(r"(?:file-|vs_|vsfb_)[0-9a-f]{32}|mark[0-9a-f]{12}")
"""What gives a thing away: its id, or the mark that is in its name and its text alone."""

STATUSES = ("in_progress", "completed", "failed", "cancelled")


def tokens(text: str) -> set[str]:
    return set(TOKEN.findall(text))


@dataclass(frozen=True)
class Caller:
    """A key, and the entries of access lists that stand for it."""

    key: str
    tenant: str
    entries: frozenset[str]

    @classmethod
    def of(cls, key: str, tenant: str, groups: Iterable[str], user: str | None) -> Caller:
        named = {f"group:{group}" for group in groups} | ({f"user:{user}"} if user else set())
        return cls(key, tenant, frozenset(named | {"tenant"}))

    @property
    def own(self) -> set[str]:
        """The access list of what it makes without saying for whom."""
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
        """Whether there is anything in it to index."""
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
    """All that there is, and all that there ever was."""

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
        """Files that are indexed by now, if they can be."""
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
        """Batches that it may ask for, with their stores."""
        return [(store, one) for store in self.stores_of(caller).values() for one in store.batches]

    def within(self, caller: Caller, store: Store) -> dict[str, Attached]:
        """What it sees in a store of its own."""
        mine = self.files_of(caller)
        return {one: attached for one, attached in store.files.items() if one in mine}

    def counts(self, caller: Caller, store: Store, batch_id: str | None = None) -> dict[str, int]:
        """`file_counts` of a store, or of one of its batches."""
        among = store.files if batch_id is None else store.batches[batch_id]
        seen = [one.status for key, one in self.within(caller, store).items() if key in among]
        return {status: seen.count(status) for status in STATUSES} | {"total": len(seen)}

    def hidden_from(self, caller: Caller) -> set[str]:
        """Tokens of all that it may know nothing of."""
        shown = {one for file in self.files_of(caller).values() for one in (file.id, file.mark)}
        for store in self.stores_of(caller).values():
            shown |= {store.id, store.mark, *store.batches}
        return self.ever - shown

    def hidden_ids(self, caller: Caller, prefix: str) -> list[str]:
        """Ids of one kind that are there, and of which it may know nothing; oldest first."""
        batches = (batch for store in self.stores.values() for batch in store.batches)
        there = (*self.files, *self.stores, *batches)
        hidden = self.hidden_from(caller)
        return [one for one in there if one in hidden and one.startswith(prefix)]


def may_read(caller: Caller, thing: File | Store) -> bool:
    return caller.tenant == thing.tenant and not caller.entries.isdisjoint(thing.access)
