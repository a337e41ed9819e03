"""Uploads over a real connection: a broken one leaves nothing, a refused one gets an answer."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.serving.gateway.openai.test_files import BODY, MAX_BYTES, Place, place
from tests.serving.live import Connection, head, listening

__all__ = ["place"]

FORM = "multipart/form-data; boundary=XX"


def request(length: int) -> bytes:
    fields = {"Content-Length": str(length), "Content-Type": FORM}
    return head("/v1/files", key="acme", fields=fields)


async def test_upload_arrives_however_slowly(place: Place) -> None:
    async with listening(place.app) as port, Connection.open(port) as client:
        await client.send(request(len(BODY)) + BODY[:-20])
        await client.send(BODY[-20:])
        assert b"200 OK" in await client.until(b"sha256")
    assert list(place.blobs.kept.values()) == [b"content"]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_client_that_hangs_up_leaves_nothing(
    place: Place, http: Literal["h11", "httptools"]
) -> None:
    async with listening(place.app, http=http) as port, Connection.open(port) as client:
        await client.send(request(len(BODY)) + BODY[:-20])
    assert place.empty


async def test_client_that_stops_sending_is_told_and_let_go(place: Place) -> None:
    async with listening(place.app) as port, Connection.open(port) as client:
        await client.send(request(len(BODY)) + BODY[:-20])
        assert b"408 Request Timeout" in await client.rest()
    assert place.empty


async def test_announced_size_is_refused_before_the_body_is_there(place: Place) -> None:
    async with listening(place.app) as port, Connection.open(port) as client:
        await client.send(request(MAX_BYTES + 2_000_000))
        assert b"413" in await client.rest()
    assert place.empty
