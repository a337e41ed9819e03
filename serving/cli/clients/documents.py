"""A client of the files and vector stores API, for `ringfence ingest`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import RawIOBase
from typing import Any, Self, TypeAlias

import httpx

from serving.cli.clients.api import ApiClient, CallFailed

_UPLOAD_TIMEOUT = httpx.Timeout(600, connect=5)
_INDEX_S = 1800.0
_FIRST_POLL_S, _POLL_S = 0.05, 0.5

Rights: TypeAlias = Mapping[str, str | list[str]]
"""The `access` and `privacy` of a file, as far as they are given."""

_STORE_ID = re.compile(r"vs_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a vector store."""

    file_id: str
    status: str
    created_at: int
    attributes: Mapping[str, Any]
    error: str | None

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """Read an API object."""
        error = (told.get("last_error") or {}).get("message")
        attributes = told.get("attributes") or {}
        return cls(told["id"], told["status"], told["created_at"], attributes, error)

    @property
    def source(self) -> str | None:
        """The source that `ingest` took it from; None if there is none."""
        return self._text("source")

    @property
    def path(self) -> str | None:
        """The path of the file within its source."""
        return self._text("path")

    @property
    def sha256(self) -> str | None:
        """The hash of its bytes, in hexadecimal, as `ingest` stored it."""
        return self._text("sha256")

    @property
    def is_good(self) -> bool:
        """Whether it is indexed, or will be."""
        return self.status in ("completed", "in_progress")

    def _text(self, name: str) -> str | None:
        value = self.attributes.get(name)
        return value if isinstance(value, str) else None


class DocumentsClient(ApiClient):
    """Calls the files and vector stores API of one server."""

    def store(self, asked: str) -> str:
        """The id of the vector store of a name or an id; made if no store has the name."""
        if (found := self._found(asked)) is not None:
            return found
        # Of runs that come here at once, one makes it.
        return str(self.call("POST", "/vector_stores", {"name": asked, "reuse": True})["id"])

    def known_store(self, asked: str) -> str:
        """Return the id of a store that must exist."""
        if (found := self._found(asked)) is None:
            raise CallFailed(f"no vector store is named {asked!r}")
        return found

    def attached(self, store: str) -> list[Attached]:
        """Return all files of a vector store."""
        return [Attached.of(told) for told in self.all(f"/vector_stores/{store}/files")]

    def upload(self, name: str, opened: RawIOBase, rights: Rights) -> str:
        """The id of a new file."""
        fields = {"purpose": "user_data"} | {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in rights.items()
        }
        told = self.send(
            "POST", "/files", files={"file": (name, opened)}, data=fields, timeout=_UPLOAD_TIMEOUT
        ).json()
        return str(told["id"])

    def change(self, file_id: str, rights: Rights) -> None:
        """Change who may read a file, or how far it may go."""
        self.call("POST", f"/files/{file_id}", rights)

    def attach(self, store: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Index a file in a store. A file whose indexing failed is indexed again."""
        body = {"file_id": file_id, "attributes": attributes}
        self.call("POST", f"/vector_stores/{store}/files", body)

    def set_attributes(self, store: str, file_id: str, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of a file in a store."""
        path = f"/vector_stores/{store}/files/{file_id}"
        self.call("POST", path, {"attributes": attributes})

    def indexed(self, store: str, file_id: str) -> Attached | None:
        """The file when it is indexed, or failed. None if it is not in the store any more."""
        ends, pause_s = time.monotonic() + _INDEX_S, _FIRST_POLL_S
        path = f"/vector_stores/{store}/files/{file_id}"
        while True:
            answer = self.send("GET", path, missing_is_fine=True)
            if answer.status_code == 404:
                return None
            found = Attached.of(answer.json())
            if found.status != "in_progress":
                return found
            if time.monotonic() > ends:
                raise CallFailed(f"it was not indexed within {_INDEX_S:.0f} s; run this again")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S)

    def detach(self, store: str, file_id: str) -> None:
        """Take a file out of a store; it is deleted if no other store has it.

        Nothing happens if it is gone.
        """
        path = f"/vector_stores/{store}/files/{file_id}"
        self.send("DELETE", path, params={"delete_unused": True}, missing_is_fine=True)

    def delete(self, file_id: str) -> None:
        """Delete a file, and with it what stores have of it. Nothing happens if it is gone."""
        self.send("DELETE", f"/files/{file_id}", missing_is_fine=True)

    def _found(self, asked: str) -> str | None:
        stores = self.all("/vector_stores")
        if _STORE_ID.fullmatch(asked):
            found = [one for one in stores if one["id"] == asked]
            if not found:
                raise CallFailed(f"no vector store has the id {asked}")
            if found[0]["status"] == "expired":
                raise CallFailed(f"the vector store {asked} has expired")
            return asked
        named = [
            str(one["id"]) for one in stores if one["name"] == asked and one["status"] != "expired"
        ]
        if len(named) > 1:
            raise CallFailed(
                f"{len(named)} vector stores are named {asked!r}. "
                f"Choose one by its id, as in --store {named[0]}: {', '.join(named)}"
            )
        return named[0] if named else None
