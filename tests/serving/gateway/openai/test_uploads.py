"""Uploads: received in pieces, within bounds, completely or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from rag.parsing.media_types import HEAD_BYTES
from serving.config.retrieval import FileSettings
from serving.domain.errors import BodyTimeout, BodyTooLarge, RingfenceError
from serving.gateway.openai.uploads import MAX_FORM_BYTES, Upload

HEAD = (
    b'--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
)
END = b"\r\n--XX--\r\n"
MAX_BYTES = 100_000


def upload(
    pieces: Iterable[bytes], *, then: Message | None = None, pause_s: float = 0.0, **headers: str
) -> Upload:
    """An upload of a client that sends `pieces`, each after a pause."""
    fields = {"content-type": "multipart/form-data; boundary=XX"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    messages.append(then or {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return messages.pop(0)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }
    settings = FileSettings(max_bytes=MAX_BYTES, idle_timeout_s=0.1, upload_timeout_s=0.3)
    return Upload(Request(scope, receive), {"purpose"}, settings=settings)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_file_arrives_with_its_name_and_fields() -> None:
    sent = upload([HEAD, b"con", b"tent", END])
    assert await whole(sent.pieces()) == b"content"
    assert (sent.filename, sent.fields) == ("a.txt", {"purpose": "user_data"})


async def test_file_is_passed_on_before_it_is_whole() -> None:
    pieces = upload([HEAD, b"first", b"second", END], pause_s=0.01).pieces()
    assert await anext(pieces) == b"first"


@pytest.mark.parametrize("size", [0, 5, HEAD_BYTES, HEAD_BYTES + 5])
async def test_head_is_the_first_bytes(size: int) -> None:
    content = bytes(at % 251 for at in range(size))
    sent = upload([HEAD, content[:3], content[3:], END])
    await whole(sent.pieces())
    assert sent.head == content[:HEAD_BYTES]


async def test_file_of_the_largest_size_is_taken() -> None:
    assert len(await whole(upload([HEAD, b"x" * MAX_BYTES, END]).pieces())) == MAX_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, b"x" * MAX_BYTES, b"x", END],
        [b"x" * (MAX_BYTES + MAX_FORM_BYTES + 1)],
        [HEAD, END, b"x" * (MAX_BYTES + MAX_FORM_BYTES)],
    ],
    ids=["file", "before_the_form", "after_the_form"],
)
async def test_larger_body_is_refused(pieces: list[bytes]) -> None:
    with pytest.raises(BodyTooLarge):
        await whole(upload(pieces).pieces())


@pytest.mark.parametrize("length", [str(MAX_BYTES + MAX_FORM_BYTES + 1), "9" * 30])
def test_larger_body_is_refused_once_it_is_announced(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        upload([], content_length=length)


@pytest.mark.parametrize(
    ("pieces", "pause_s"),
    [([HEAD], 0.2), ([HEAD, *[b"x"] * 20, END], 0.05)],
    ids=["idle", "dripping"],
)
async def test_body_that_takes_too_long_is_refused(pieces: list[bytes], pause_s: float) -> None:
    with pytest.raises(BodyTimeout):
        await whole(upload(pieces, pause_s=pause_s).pieces())


BODY = HEAD + b"content" + END


@pytest.mark.parametrize("gone", [False, True], ids=["ends", "hangs_up"])
@pytest.mark.parametrize("cut", range(0, len(BODY) - 2, 3))
async def test_body_that_is_cut_off_never_ends_well(cut: int, gone: bool) -> None:
    then: Message | None = {"type": "http.disconnect"} if gone else None
    with pytest.raises(RingfenceError):
        await whole(upload([BODY[:cut]], then=then).pieces())
