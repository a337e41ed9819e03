"""`/v1/files` on files in memory: what is accepted, returned and left behind."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx
import pytest
from openai import AsyncOpenAI
from starlette.types import ASGIApp, Message

from rag.errors import IndexUnavailable, NotThere, RagError, Refused
from rag.pages import PageQuery
from rag.stores.access_lists import Reader
from serving.config import LimitSettings, ServerSettings
from serving.config.retrieval import FileSettings
from serving.gateway.idempotency import Idempotency
from serving.gateway.open_requests import OpenRequests
from serving.gateway.openai import files
from serving.gateway.openai.documents import Documents, DocumentsEdge
from serving.storage.errors import DatabaseUnavailable
from tests.serving.gateway.documents import ScriptedGate, served

MAX_BYTES = 1000


@dataclass(frozen=True)
class Written:
    size: int
    sha256: str


@dataclass
class MemoryBlobs:
    """Keeps complete uploads."""

    kept: dict[tuple[str, str], bytes] = field(default_factory=dict)
    error: OSError | None = None

    async def write(self, tenant: str, file_id: str, pieces: AsyncIterator[bytes]) -> Written:
        content = b"".join([piece async for piece in pieces])
        self.kept[tenant, file_id] = content
        return Written(len(content), hashlib.sha256(content).hexdigest())

    async def read(self, tenant: str, file_id: str) -> AsyncIterator[bytes]:
        if self.error is not None:
            raise self.error
        if (tenant, file_id) not in self.kept:
            raise NotThere("No such file.")
        for byte in self.kept[tenant, file_id]:
            yield bytes([byte])

    async def delete(self, tenant: str, file_id: str) -> None:
        self.kept.pop((tenant, file_id), None)


@dataclass(frozen=True)
class Record:
    id: str
    tenant: str
    filename: str
    purpose: str
    media_type: str
    bytes: int
    sha256: str
    privacy: str
    access: list[str]
    created_at: int
    expires_at: int | None


@dataclass(frozen=True)
class Page:
    rows: list[Record]
    has_more: bool


@dataclass
class MemoryFiles:
    """Keeps records in order of creation, for readers on their access lists."""

    rows: dict[str, Record] = field(default_factory=dict)
    error: Exception | None = None

    async def create(
        self,
        reader: Reader,
        *,
        file_id: str,
        size: int,
        access: list[str] | None,
        expires_after_s: int | None,
        **facts: Any,
    ) -> Record:
        if self.error is not None:
            raise self.error
        now = len(self.rows)
        expires_at = None if expires_after_s is None else now + expires_after_s
        self.rows[file_id] = row = Record(
            id=file_id, tenant=reader.tenant, bytes=size, access=access or reader.own,
            created_at=now, expires_at=expires_at, **facts,
        )  # fmt: skip
        return row

    async def get(self, reader: Reader, file_id: str) -> Record:
        if self.error is not None:
            raise self.error
        row = self.rows.get(file_id)
        if row is None or row.tenant != reader.tenant or not reader.entries & set(row.access):
            raise NotThere("No such file.")
        return row

    async def list(self, reader: Reader, query: PageQuery, *, purpose: str | None = None) -> Page:
        rows = [
            row
            for row in self.rows.values()
            if row.tenant == reader.tenant and purpose in (None, row.purpose)
        ]
        rows = rows[::-1] if query.order == "desc" else rows
        start = 0 if query.after is None else [row.id for row in rows].index(query.after) + 1
        return Page(rows[start : start + query.limit], start + query.limit < len(rows))

    async def modify(
        self, reader: Reader, file_id: str, *, access: Sequence[str] | None, privacy: str | None
    ) -> Record:
        row = await self.get(reader, file_id)
        changes: dict[str, Any] = {"access": access, "privacy": privacy}
        changes = {name: value for name, value in changes.items() if value is not None}
        self.rows[file_id] = changed = replace(row, **changes)
        return changed

    async def delete(self, reader: Reader, file_id: str) -> None:
        await self.get(reader, file_id)
        del self.rows[file_id]


@dataclass
class Place:
    app: ASGIApp
    files: MemoryFiles
    blobs: MemoryBlobs
    woken: list[bool]
    client: httpx.AsyncClient
    gate: ScriptedGate

    async def call(
        self, method: str, path: str, *, by: str = "acme", **request: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {by}"} | request.pop("headers", {})
        return await self.client.request(method, f"/v1/files{path}", headers=headers, **request)

    async def upload(
        self, content: bytes = b"text", name: str = "a.txt", *, by: str = "acme", **fields: str
    ) -> httpx.Response:
        data = {"purpose": "user_data"} | fields
        return await self.call("POST", "", by=by, data=data, files={"file": (name, content)})

    async def file(self, *args: Any, **fields: Any) -> str:
        return str((await self.upload(*args, **fields)).json()["id"])

    @property
    def empty(self) -> bool:
        return not self.files.rows and not self.blobs.kept


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    kept, blobs, woken = MemoryFiles(), MemoryBlobs(), list[bool]()
    anything = cast("Any", None)
    documents = Documents(
        files=cast("Any", kept), blobs=cast("Any", blobs), stores=anything,
        store_files=anything, batches=anything, wake=lambda: woken.append(True),
    )  # fmt: skip
    gate = ScriptedGate()
    edge = DocumentsEdge(
        gate,
        Idempotency(anything, requests=OpenRequests()),
        server=ServerSettings(),
        limits=LimitSettings(),
    )  # No request here has an idempotency key.
    settings = FileSettings.model_construct(
        max_bytes=MAX_BYTES, upload_timeout_s=5.0, idle_timeout_s=1.0
    )
    app = served(files.router(edge, documents, settings=settings))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://ringfence"
    ) as client:
        yield Place(app, kept, blobs, woken, client, gate)


async def test_upload_whose_key_is_revoked_meanwhile_leaves_nothing(place: Place) -> None:
    request = httpx.Request(
        "POST", "http://x", data={"purpose": "user_data"}, files={"file": ("a.txt", b"text")}
    )
    form = request.read()

    async def slowly() -> AsyncIterator[bytes]:
        yield form[:-10]
        place.gate.revoked.add("acme")
        yield form[-10:]

    answer = await place.call(
        "POST", "", content=slowly(), headers={"content-type": request.headers["content-type"]}
    )
    assert (answer.status_code, place.empty) == (401, True)


async def test_upload_answers_with_openai_s_fields_and_ours(place: Place) -> None:
    answer = await place.upload(b"%PDF-1.7", "a b.pdf", privacy="scrubbed", access='["group:x"]')
    file = answer.json()
    assert file.pop("id").startswith("file-")
    assert file == {
        "object": "file", "bytes": 8, "created_at": 0, "expires_at": None, "filename": "a b.pdf",
        "purpose": "user_data", "status": "processed", "status_details": None,
        "sha256": hashlib.sha256(b"%PDF-1.7").hexdigest(), "access": ["group:x"],
        "privacy": "scrubbed",
    }  # fmt: skip


async def test_media_type_is_told_by_content(place: Place) -> None:
    await place.upload(b"%PDF-1.7\n%", "a.txt")
    assert [row.media_type for row in place.files.rows.values()] == ["application/pdf"]


async def test_content_comes_back_as_an_attachment(place: Place) -> None:
    content = bytes(range(256))
    answer = await place.call("GET", f"/{await place.file(content, 'a.bin')}/content")
    assert answer.content == content
    assert answer.headers["content-length"] == "256"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith('attachment; filename="a.bin"')


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_short_content_comes_back_whole(place: Place, content: bytes) -> None:
    answer = await place.call("GET", f"/{await place.file(content)}/content")
    assert (answer.status_code, answer.content) == (200, content)


async def test_full_disk_is_told_without_its_path(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(*_: object) -> Written:
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr(place.blobs, "write", write)
    answer = await place.call(
        "POST", "", data={"purpose": "user_data"}, files={"file": ("a.txt", b"x")}
    )
    assert (answer.status_code, "secret" in answer.text) == (503, False)
    assert not place.files.rows


async def test_content_that_the_store_does_not_give_is_a_503(place: Place) -> None:
    file = await place.file()
    place.blobs.error = TimeoutError("canary")
    answer = await place.call("GET", f"/{file}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "state_unavailable")
    assert "canary" not in answer.text


async def test_content_that_is_gone_is_told_before_a_status(place: Place) -> None:
    file = await place.file()
    place.blobs.kept.clear()
    assert (await place.call("GET", f"/{file}/content")).status_code == 404


async def test_files_are_listed_over_many_pages(place: Place) -> None:
    ids = [await place.file() for _ in range(7)]
    found: list[str] = []
    while True:
        after = {"after": found[-1]} if found else {}
        page = (await place.call("GET", "", params={"limit": 3, "order": "asc"} | after)).json()
        found += [file["id"] for file in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], found[-1])
        if not page["has_more"]:
            break
    assert found == ids


async def test_empty_list_has_no_cursors(place: Place) -> None:
    page = (await place.call("GET", "")).json()
    assert page == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "10001"),
        ("order", "up"),
        ("purpose", "x"),
        ("after", "a/b"),
        ("after", "\x00"),
    ],
)
async def test_query_that_cannot_be_meant_is_refused(place: Place, name: str, value: str) -> None:
    answer = await place.call("GET", "", params={name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


async def test_access_and_privacy_can_be_changed(place: Place) -> None:
    file_id = await place.file()
    change = {"access": ["tenant", "group:legal"], "privacy": "open"}
    file = (await place.call("POST", f"/{file_id}", json=change)).json()
    assert (file["access"], file["privacy"]) == (["tenant", "group:legal"], "open")


async def test_deleted_file_is_gone(place: Place) -> None:
    file_id = await place.file()
    answer = await place.call("DELETE", f"/{file_id}")
    assert answer.json() == {"id": file_id, "object": "file", "deleted": True}
    assert (await place.call("GET", f"/{file_id}")).status_code == 404
    assert place.woken


ON_ONE_FILE: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("GET", "/content", None),
    ("POST", "", {"privacy": "open"}),
    ("DELETE", "", None),
]


@pytest.mark.parametrize("by", ["acme", "globex"])
@pytest.mark.parametrize(("method", "path", "body"), ON_ONE_FILE)
async def test_foreign_file_is_told_as_an_absent_one(
    place: Place, by: str, method: str, path: str, body: Any
) -> None:
    foreign = await place.file(by="legal", access='["group:legal"]')
    answers = [
        await place.call(method, f"/{file_id}{path}", by=by, json=body)
        for file_id in (foreign, "file-" + "0" * 32)
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("file_id", ["%00", "a%20b", "x" * 65, "caf%C3%A9"])
async def test_id_that_can_be_none_names_nothing(place: Place, file_id: str) -> None:
    assert (await place.call("GET", f"/{file_id}")).status_code == 404


@pytest.mark.parametrize(("method", "path", "body"), [*ON_ONE_FILE, ("POST", "", None)])
async def test_caller_without_a_key_learns_nothing(
    place: Place, method: str, path: str, body: Any
) -> None:
    answer = await place.call(method, f"/a{path}", by="nobody", json=body, params={"limit": "x"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotThere("Gone."), 404),
        (Refused("No."), 400),
        (IndexUnavailable("Later."), 503),
        (DatabaseUnavailable("secret detail"), 503),
    ],
)
async def test_upload_that_cannot_be_recorded_is_told(
    place: Place, error: RagError | DatabaseUnavailable, status: int
) -> None:
    place.files.error = error
    answer = await place.upload()
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert place.empty or isinstance(error, DatabaseUnavailable)


async def test_content_stays_where_its_row_may_have_been_written(place: Place) -> None:
    place.files.error = DatabaseUnavailable("the commit was not answered")
    await place.upload()
    assert list(place.blobs.kept.values()) == [b"text"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"access": "x"}, "access"),
        ({"privacy": "x"}, "privacy"),
    ],
)
async def test_refused_upload_leaves_nothing(
    place: Place, fields: dict[str, Any], param: str
) -> None:
    answer = await place.upload(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert place.empty


async def test_upload_of_another_type_is_refused(place: Place) -> None:
    answer = await place.call("POST", "", json={"purpose": "user_data"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "content-type")


async def test_larger_file_is_refused_and_the_connection_ends(place: Place) -> None:
    answer = await place.upload(b"x" * (MAX_BYTES + 1))
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert place.empty


BODY = (
    b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    b"content\r\n--XX--\r\n"
)


async def send(place: Place, body: bytes, end: Message) -> list[Message]:
    """Send a body like an ASGI server that then receives `end`."""
    waiting = [{"type": "http.request", "body": body, "more_body": True}, end]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def keep(message: Message) -> None:
        sent.append(message)

    headers = [
        (b"authorization", b"Bearer acme"),
        (b"content-type", b"multipart/form-data; boundary=XX"),
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/v1/files", "raw_path": b"/v1/files",
        "root_path": "", "scheme": "http", "query_string": b"", "headers": headers,
        "http_version": "1.1", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await place.app(scope, receive, keep)
    return sent


@pytest.mark.parametrize("gone", [False, True], ids=["ends", "hangs_up"])
@pytest.mark.parametrize("cut", range(len(BODY) - 2))
async def test_upload_that_is_cut_off_leaves_nothing(place: Place, cut: int, gone: bool) -> None:
    end: Message = {"type": "http.request", "body": b"", "more_body": False}
    sent = await send(place, BODY[:cut], {"type": "http.disconnect"} if gone else end)
    assert place.empty
    assert sent[0]["status"] == 400


async def test_upload_that_is_not_cut_off_is_there(place: Place) -> None:
    await send(place, BODY, {"type": "http.request", "body": b"", "more_body": False})
    assert list(place.blobs.kept.values()) == [b"content"]


@pytest.fixture
def sdk(place: Place) -> AsyncOpenAI:
    return AsyncOpenAI(
        api_key="acme",
        base_url="http://ringfence/v1",
        http_client=place.client,  # type: ignore[arg-type]
        max_retries=0,
    )


async def test_official_sdk_works_with_files(sdk: AsyncOpenAI) -> None:
    file = await sdk.files.create(
        file=('a "b".txt', b"content"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.filename, file.expires_at) == ('a "b".txt', 3600)
    assert await sdk.files.retrieve(file.id) == file
    assert (await sdk.files.content(file.id)).content == b"content"
    assert [one.id async for one in sdk.files.list(limit=1)] == [file.id]
    assert (await sdk.files.delete(file.id)).deleted


@pytest.mark.parametrize(
    ("form", "header", "kept"),
    [("open", "local_only", "local_only"), ("scrubbed", "open", "scrubbed"),
     ("open", "open, scrubbed", "scrubbed"), (None, "open", "local_only")],
)  # fmt: skip
async def test_class_of_a_file_is_the_strictest_of_form_and_header(
    place: Place, form: str | None, header: str, kept: str
) -> None:
    data = {"purpose": "user_data"} | ({} if form is None else {"privacy": form})
    answer = await place.call(
        "POST", "", data=data, files={"file": ("a.txt", b"text")},
        headers={"x-ringfence-privacy": header},
    )  # fmt: skip
    assert answer.json()["privacy"] == kept


@pytest.mark.parametrize("name", ["Privacy", "privacy ", "privacy[]", "рrivacy", "acces"])
async def test_field_that_looks_like_one_of_ours_is_refused_and_nothing_is_kept(
    place: Place, name: str
) -> None:
    fields: dict[str, Any] = {name: "local_only"}
    answer = await place.upload(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert place.empty


async def test_class_that_stands_twice_is_refused_and_nothing_is_kept(place: Place) -> None:
    parts = [("purpose", (None, "user_data")), ("privacy", (None, "local_only")),
             ("privacy", (None, "open")), ("file", ("a.txt", b"text"))]  # fmt: skip
    answer = await place.call("POST", "", files=parts)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "privacy")
    assert place.empty
