"""`/v1/vector_stores` and its subroutes, on scripted parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from openai import AsyncOpenAI
from starlette.types import ASGIApp

from rag.errors import Ambiguous, EmbedderMismatch, IndexUnavailable, NotThere, Refused, TooMany
from rag.pages import PageQuery
from rag.search.passages import Passage
from rag.stores.access_lists import Reader
from serving.config import LimitSettings, ServerSettings
from serving.domain.search_call import Ranking, RetrievedPassages
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import vector_store_files, vector_stores
from serving.gateway.openai.documents import Documents, DocumentsEdge
from serving.storage.errors import DatabaseUnavailable
from tests.serving.gateway.documents import ScriptedGate, served

COUNTS = SimpleNamespace(in_progress=1, completed=2, failed=3, cancelled=4, total=10)
SHOWN_COUNTS = {"in_progress": 1, "completed": 2, "failed": 3, "cancelled": 4, "total": 10}
STORE = SimpleNamespace(
    id="vs_1", created_at=1, name="n", description=None, usage_bytes=5, counts=COUNTS,
    status="in_progress", expires_after_days=7, expires_at=9, last_active_at=2,
    metadata={"a": "b"}, access=["tenant"],
)  # fmt: skip
FILE = SimpleNamespace(
    file_id="file-1", store_id="vs_1", created_at=1, status="failed", error_code="invalid_file",
    error_message="Empty.", attributes={"year": 2026}, chunk_tokens=800, overlap_tokens=400,
    usage_bytes=5,
)  # fmt: skip
BATCH = SimpleNamespace(
    id="vsfb_1", store_id="vs_1", created_at=1, status="in_progress", counts=COUNTS
)
PASSAGE = Passage(
    store_id="vs_1", file_id="file-1", filename="a.pdf", attributes={"year": 2026},
    privacy="local_only", page=3, position=7, chunk_id=1, text="text", score=0.5, cosine=0.4,
)  # fmt: skip


@dataclass
class ScriptedPart:
    """Answers every call with one of its rows, and records the last call."""

    row: Any
    asked: tuple[str, Reader, tuple[Any, ...], dict[str, Any]] | None = None
    error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        async def answer(reader: Reader, *args: Any, **named: Any) -> Any:
            self.asked = (name, reader, args, named)
            if self.error is not None:
                raise self.error
            if name == "list":
                return SimpleNamespace(rows=[self.row], has_more=True)
            return ["one", "two"] if name == "content" else self.row

        return answer


@dataclass
class Place:
    app: ASGIApp
    gate: ScriptedGate
    client: httpx.AsyncClient
    stores: ScriptedPart = field(default_factory=lambda: ScriptedPart(STORE))
    files: ScriptedPart = field(default_factory=lambda: ScriptedPart(FILE))
    batches: ScriptedPart = field(default_factory=lambda: ScriptedPart(BATCH))
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1

    async def call(
        self, method: str, path: str = "", body: Any = None, *, by: str = "acme", **request: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {by}"}
        return await self.client.request(
            method, f"/v1/vector_stores{path}", json=body, headers=headers, **request
        )

    def fail(self, error: Exception) -> None:
        self.stores.error = self.files.error = self.batches.error = self.gate.found = error


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    anything = cast("Any", None)
    made = Place(anything, ScriptedGate(), anything)
    documents = Documents(
        files=anything, blobs=anything, stores=cast("Any", made.stores),
        store_files=cast("Any", made.files), batches=cast("Any", made.batches), wake=made.wake,
    )  # fmt: skip
    edge = DocumentsEdge(
        made.gate,
        Idempotency(anything, requests=OpenRequests()),
        server=ServerSettings(),
        limits=LimitSettings(),
    )  # No request here has an idempotency key.
    made.app = served(
        vector_stores.router(edge, documents), vector_store_files.router(edge, documents)
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(made.app), base_url="http://ringfence"
    ) as made.client:
        yield made


ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "", {"file_ids": ["file-1"]}),
    ("GET", "", None),
    ("GET", "/vs_1", None),
    ("POST", "/vs_1", {"name": "x"}),
    ("DELETE", "/vs_1", None),
    ("POST", "/vs_1/search", {"query": "x"}),
    ("POST", "/vs_1/files", {"file_id": "file-1"}),
    ("GET", "/vs_1/files", None),
    ("GET", "/vs_1/files/file-1", None),
    ("POST", "/vs_1/files/file-1", {"attributes": {}}),
    ("DELETE", "/vs_1/files/file-1", None),
    ("GET", "/vs_1/files/file-1/content", None),
    ("POST", "/vs_1/file_batches", {"file_ids": ["file-1"]}),
    ("GET", "/vs_1/file_batches/vsfb_1", None),
    ("POST", "/vs_1/file_batches/vsfb_1/cancel", None),
    ("GET", "/vs_1/file_batches/vsfb_1/files", None),
]
EACH = pytest.mark.parametrize(("method", "path", "body"), ROUTES)


@EACH
async def test_route_answers(place: Place, method: str, path: str, body: Any) -> None:
    if path.endswith("vsfb_1/files"):
        place.batches.row = FILE
    assert (await place.call(method, path, body)).status_code == 200


@EACH
async def test_caller_without_a_key_learns_nothing(
    place: Place, method: str, path: str, body: Any
) -> None:
    answer = await place.call(method, path, body, by="nobody", params={"limit": "x"})
    assert answer.status_code == 401


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotThere("No such thing."), (404, None)),
        (Refused("No.", param="file_ids"), (400, "file_ids")),
        (TooMany("Full."), (400, None)),
        (EmbedderMismatch("Re-embed it."), (409, None)),
        (Ambiguous("Two.", param="name"), (409, "name")),
        (IndexUnavailable("Later."), (503, None)),
        (DatabaseUnavailable("secret detail"), (503, None)),
    ],
    ids=["absent", "refused", "too_many", "mismatch", "ambiguous", "index", "database"],
)
async def test_failure_is_told(
    place: Place, route: tuple[str, str, Any], error: Exception, told: tuple[int, str | None]
) -> None:
    place.fail(error)
    answer = await place.call(*route)
    assert (answer.status_code, answer.json()["error"]["param"]) == told
    assert "secret" not in answer.text
    assert place.woken == 0


@EACH
async def test_reader_is_the_caller_with_all_its_groups(
    place: Place, method: str, path: str, body: Any
) -> None:
    place.fail(NotThere("No."))
    await place.call(method, path, body, by="legal")
    if path.endswith("/search"):
        assert place.gate.asked[0].principal.groups == {"legal"}
        return
    asked = [part.asked for part in (place.stores, place.files, place.batches) if part.asked]
    assert [one[1] for one in asked] == [Reader("acme", frozenset({"tenant", "group:legal"}))]


@pytest.mark.parametrize("path", ["/%00", "/a%20b", "/vs_1/files/%00", "/vs_1/file_batches/%ff"])
async def test_id_that_can_be_none_names_nothing(place: Place, path: str) -> None:
    assert (await place.call("GET", path)).status_code == 404


@pytest.mark.parametrize("path", ["", "/vs_1/files", "/vs_1/file_batches/vsfb_1/files"])
@pytest.mark.parametrize(
    ("name", "value"), [("limit", "0"), ("limit", "101"), ("order", "x"), ("before", "a b")]
)
async def test_query_that_cannot_be_meant_is_refused(
    place: Place, path: str, name: str, value: str
) -> None:
    answer = await place.call("GET", path, params={name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


async def test_page_is_asked_for_as_it_is_sent(place: Place) -> None:
    query = {"limit": 5, "order": "asc", "after": "file-1", "filter": "failed"}
    page = (await place.call("GET", "/vs_1/files", params=query)).json()
    assert place.files.asked is not None
    assert place.files.asked[2:] == (
        ("vs_1", PageQuery(limit=5, order="asc", after="file-1")),
        {"status": "failed"},
    )
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("file-1", "file-1", True)


@pytest.mark.parametrize(
    ("query", "deletes"),
    [({}, False), ({"delete_unused": "true"}, True)],
    ids=["as_openai", "ours"],
)
async def test_detached_file_is_deleted_only_on_request(
    place: Place, query: dict[str, str], deletes: bool
) -> None:
    await place.call("DELETE", "/vs_1/files/file-1", params=query)
    assert place.files.asked is not None
    assert place.files.asked[2:] == (("vs_1", "file-1"), {"delete_unused": deletes})


async def test_detach_query_that_cannot_be_meant_is_refused(place: Place) -> None:
    answer = await place.call("DELETE", "/vs_1/files/file-1", params={"delete_unused": "maybe"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "delete_unused")


async def test_store_has_openai_s_fields_and_ours(place: Place) -> None:
    assert (await place.call("GET", "/vs_1")).json() == {
        "id": "vs_1", "object": "vector_store", "created_at": 1, "name": "n", "description": None,
        "usage_bytes": 5, "file_counts": SHOWN_COUNTS, "status": "in_progress",
        "expires_after": {"anchor": "last_active_at", "days": 7}, "expires_at": 9,
        "last_active_at": 2, "metadata": {"a": "b"}, "access": ["tenant"],
    }  # fmt: skip


async def test_file_that_failed_says_why(place: Place) -> None:
    sizes = {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
    assert (await place.call("GET", "/vs_1/files/file-1")).json() == {
        "id": "file-1", "object": "vector_store.file", "usage_bytes": 5, "created_at": 1,
        "vector_store_id": "vs_1", "status": "failed",
        "last_error": {"code": "invalid_file", "message": "Empty."},
        "chunking_strategy": {"type": "static", "static": sizes}, "attributes": {"year": 2026},
    }  # fmt: skip


async def test_batch_tells_its_counts(place: Place) -> None:
    assert (await place.call("GET", "/vs_1/file_batches/vsfb_1")).json() == {
        "id": "vsfb_1", "object": "vector_store.files_batch", "created_at": 1,
        "vector_store_id": "vs_1", "status": "in_progress", "file_counts": SHOWN_COUNTS,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [route for route in ROUTES if route[0] in ("POST", "DELETE")],
)
async def test_indexer_is_woken_where_there_is_something_to_do(
    place: Place, method: str, path: str, body: Any
) -> None:
    await place.call(method, path, body)
    idle = path.endswith(("/search", "/cancel")) or body in ({"name": "x"}, {"attributes": {}})
    assert place.woken == (0 if idle else 1)


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({}, {}),
        ({"name": None}, {}),
        ({"name": "x", "access": ["tenant"]}, {"name": "x", "access": ["tenant"]}),
        (
            {"metadata": None, "expires_after": None},
            {"metadata": {}, "expires_after_days": None},
        ),
        (
            {"expires_after": {"anchor": "last_active_at", "days": 3}},
            {"expires_after_days": 3},
        ),
    ],
)
async def test_store_keeps_what_is_not_sent(
    place: Place, body: dict[str, Any], changes: dict[str, Any]
) -> None:
    await place.call("POST", "/vs_1", body)
    assert place.stores.asked is not None
    assert place.stores.asked[3] == changes


async def test_search_is_asked_for_as_it_is_sent(place: Place) -> None:
    weights = {"embedding_weight": 2, "text_weight": 0}
    options = {"ranker": "none", "score_threshold": 0.5, "hybrid_search": weights}
    body = {"query": ["a", "b"], "max_num_results": 50, "ranking_options": options}
    await place.call("POST", "/vs_1/search", body)
    [call] = place.gate.asked
    assert (call.store_ids, call.queries, call.limit) == (["vs_1"], ["a", "b"], 50)
    assert call.ranking == Ranking(0.5, 2.0, 0.0, "none")


async def test_results_have_openai_s_fields_and_ours(place: Place) -> None:
    place.gate.found = RetrievedPassages([PASSAGE], ["x"])
    answer = await place.call("POST", "/vs_1/search", {"query": "x"})
    assert answer.headers["x-ringfence-privacy"] == "local_only"
    result = {
        "file_id": "file-1", "filename": "a.pdf", "score": 0.5, "attributes": {"year": 2026},
        "content": [{"type": "text", "text": "text"}], "page": 3, "position": 7,
    }  # fmt: skip
    assert answer.json() == {
        "object": "vector_store.search_results.page", "search_query": ["x"], "data": [result],
        "has_more": False, "next_page": None,
    }  # fmt: skip


@pytest.fixture
def sdk(place: Place) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="acme",
        base_url="http://ringfence/v1",
        http_client=place.client,  # type: ignore[arg-type]
        max_retries=0,
    )


async def test_official_sdk_works_with_vector_stores(place: Place, sdk: AsyncOpenAI) -> None:
    place.gate.found = RetrievedPassages([PASSAGE], ["x"])
    store = await sdk.vector_stores.create(name="n", file_ids=["file-1"])
    assert (store.id, store.file_counts.total) == ("vs_1", 10)
    assert (await sdk.vector_stores.list()).data[0] == store
    assert await sdk.vector_stores.update("vs_1", name="n") == store
    [result] = (await sdk.vector_stores.search("vs_1", query="x")).data
    assert (result.file_id, result.content[0].text) == ("file-1", "text")
    assert (await sdk.vector_stores.delete("vs_1")).deleted


async def test_official_sdk_works_with_files_of_a_store(place: Place, sdk: AsyncOpenAI) -> None:
    files = sdk.vector_stores.files
    file = await files.create_and_poll("file-1", vector_store_id="vs_1")
    assert file.last_error is not None
    assert (await files.list("vs_1")).data == [file]
    content = await files.content("file-1", vector_store_id="vs_1")
    assert [piece.text for piece in content.data] == ["one", "two"]
    assert (await files.delete("file-1", vector_store_id="vs_1")).deleted
    batches = sdk.vector_stores.file_batches
    batch = await batches.create("vs_1", file_ids=["file-1"])
    assert await batches.cancel("vsfb_1", vector_store_id="vs_1") == batch
    place.batches.row = FILE
    assert (await batches.list_files("vsfb_1", vector_store_id="vs_1")).data == [file]
