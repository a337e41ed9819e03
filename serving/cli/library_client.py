"""A client of the files and vector stores API, for `ringfence ingest`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import IO, Any, Self

import httpx

from serving.cli.api_client import ApiClient, CallFailed

_UPLOAD_TIMEOUT = httpx.Timeout(600, connect=5)
_INDEX_S = 1800.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in a vector store."""

    file_id: str
    status: str
    path: str | None
    sha256: str | None
    error: str | None

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """As the API tells it."""
        attributes = told.get("attributes") or {}
        error = (told.get("last_error") or {}).get("message")
        return cls(
            told["id"], told["status"], attributes.get("path"), attributes.get("sha256"), error
        )


class LibraryClient(ApiClient):
    """Calls the files and vector stores API of one server."""

    def store(self, name: str) -> str:
        """The id of the vector store of a name; made if there is none."""
        named = [one["id"] for one in self.all("/vector_stores") if one["name"] == name]
        if len(named) > 1:
            raise CallFailed(f"{len(named)} vector stores are named {name!r}")
        return named[0] if named else str(self.call("POST", "/vector_stores", {"name": name})["id"])

    def attached(self, store: str) -> list[Attached]:
        """All files of a vector store."""
        return [Attached.of(told) for told in self.all(f"/vector_stores/{store}/files")]

    def upload(self, name: str, opened: IO[bytes], fields: dict[str, str]) -> str:
        """The id of a new file."""
        told = self.send(
            "POST", "/files", files={"file": (name, opened)},
            data={"purpose": "user_data"} | fields, timeout=_UPLOAD_TIMEOUT,
        ).json()  # fmt: skip
        return str(told["id"])

    def attach(self, store: str, file_id: str, attributes: dict[str, str]) -> None:
        """Have a file indexed."""
        body = {"file_id": file_id, "attributes": attributes}
        self.call("POST", f"/vector_stores/{store}/files", body)

    def indexed(self, store: str, file_id: str) -> Attached:
        """The file when it is indexed, or failed."""
        ends = time.monotonic() + _INDEX_S
        while True:
            found = Attached.of(self.call("GET", f"/vector_stores/{store}/files/{file_id}"))
            if found.status != "in_progress":
                return found
            if time.monotonic() > ends:
                raise CallFailed(f"it was not indexed within {_INDEX_S:.0f} s; run this again")
            time.sleep(_POLL_S)

    def delete(self, file_id: str) -> None:
        """Delete a file, and with it what stores have of it. Nothing happens if it is gone."""
        self.send("DELETE", f"/files/{file_id}", missing_is_fine=True)
