"""No canary leaves from any place of a request by any endpoint, and none is stored."""

from __future__ import annotations

import logging
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from serving.domain.privacy_class import PrivacyClass
from serving.gateway.wire.chat import ChatRequest, CompletionRequest
from serving.storage.valkey import Valkey
from tests.security.conftest import Border, said
from tests.security.positions import CANARIES, ROWS, TEXT, USER, Row, text_fields

EVERY_CANARY = {*CANARIES, *(one for row in ROWS for one in row.canaries)}
REPEATS = {"model", "tool_choice.function.name"}
"""Fields whose values our errors quote: missing models and tools."""
REFUSED = {400, 404, 503}
"""Statuses if no provider can run a request, or it may not leave and no local model answers."""

STAYS: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "embed", "input": [TEXT]},
    "/tokenize": {"model": "chat", "prompt": TEXT},
    "/tokenize#messages": {"model": "chat", "messages": [USER | {"content": TEXT}]},
    "/detokenize": {"model": "chat", "tokens": list(TEXT.encode())},
}


def squeezed(text: str) -> str:
    """Keep only letters and digits, so that no spacing hides anything."""
    return re.sub(r"[\W_]", "", text).lower()


def shown(text: str) -> list[str]:
    """Return the canaries that a text contains, with any separators."""
    looked = squeezed(text)
    return [one for one in EVERY_CANARY if squeezed(one) in looked]


@pytest.mark.parametrize(
    ("endpoint", "model"), [("chat", ChatRequest), ("completion", CompletionRequest)]
)
def test_every_field_that_can_hold_text_has_a_row(
    endpoint: str, model: type[ChatRequest | CompletionRequest]
) -> None:
    rows = {row.field for row in ROWS if row.endpoint == endpoint and row.field[0] != "("}
    assert rows == set(text_fields(model))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_canary_does_not_get_out(border: Border, row: Row) -> None:
    for stream in (False, True):
        for body, canaries in row.requests():
            asked = len(border.provider.received)
            answer = await border.ask(row.endpoint, body, stream=stream)
            left = len(border.provider.received) - asked
            assert shown(border.outside()) == []
            if row.outcome == "refused":
                assert (answer.status_code in REFUSED, left) == (True, 0)
            else:
                assert (answer.status_code, left) == (200, 1)
                back = [one for one in canaries if one in said(answer)]
                assert back == (list(canaries) if row.outcome == "scrubbed" else [])


async def test_open_request_leaves_with_its_canaries(border: Border) -> None:
    answer = await border.ask("chat", {"model": "chat", "messages": [USER | {"content": TEXT}]},
                              privacy="open")  # fmt: skip
    assert (answer.status_code, set(CANARIES) - set(shown(border.outside()))) == (200, set())


async def test_local_only_request_never_leaves(border: Border) -> None:
    for row in ROWS:
        for body, _ in row.requests():
            answer = await border.ask(row.endpoint, body, privacy="local_only")
            assert answer.status_code in REFUSED
    assert border.provider.connections == 0


@pytest.mark.parametrize("path", STAYS)
@pytest.mark.parametrize("privacy", ["scrubbed", "open"])
async def test_endpoint_that_has_no_provider_never_leaves(
    border: Border, path: str, privacy: PrivacyClass
) -> None:
    answer = await border.post(path.partition("#")[0], STAYS[path], privacy)
    assert (answer.status_code, shown(answer.text)) == (503, [])
    assert border.provider.connections == 0


@pytest.mark.parametrize("privacy", ["local_only", "scrubbed", "open"])
async def test_canary_is_kept_nowhere(
    border: Border, privacy: PrivacyClass, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    asked = [(row, body) for row in ROWS for body, _ in row.requests()]
    for number, (row, body) in enumerate(asked):
        headers = {"idempotency-key": f"{border.tenant}-{number}"}
        stream = number % 2 == 0
        answer = await border.ask(row.endpoint, body, stream=stream, privacy=privacy, **headers)
        if answer.is_error and row.field not in REPEATS:
            assert shown(answer.text) == []
    for path, body in STAYS.items():
        await border.post(path.partition("#")[0], body, privacy)
    kept = await everything(border.backend.admission_parts.valkey)
    assert (bool(kept), shown("\n".join(kept))) == (True, [])
    assert await border.backend.admission_parts.ledger.drain() > len(ROWS)  # Into the database.
    assert shown("\n".join(dumped(store_url))) == []
    assert shown("\n".join(map(told, caplog.records))) == []
    assert shown((await border.backend.client.get("/metrics")).text) == []


def told(record: logging.LogRecord) -> str:
    """Everything that a log handler could write of a record."""
    return f"{record.getMessage()} {record.args!r} {record.exc_info!r} {vars(record)!r}"


def dumped(store_url: str) -> list[str]:
    """Return every row of every table."""
    with closing(sqlite3.connect(store_url.removeprefix("sqlite:///"))) as database:
        return list(database.iterdump())


async def everything(valkey: Valkey) -> list[str]:
    """Return every key in Valkey with its value."""
    reads = {
        b"string": ("GET",), b"hash": ("HGETALL",), b"set": ("SMEMBERS",),
        b"list": ("LRANGE", 0, -1), b"zset": ("ZRANGE", 0, -1), b"stream": ("XRANGE", "-", "+"),
    }  # fmt: skip
    found = []
    for name in await valkey.command("KEYS", "*"):
        kind = await valkey.command("TYPE", name)
        if kind != b"none":  # Its time had come meanwhile.
            command, *bounds = reads[kind]
            found.append(f"{name!r} {await valkey.command(command, name, *bounds)!r}")
    return found
