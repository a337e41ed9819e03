"""A client cannot weaken a request's class: repetition takes the strictest, look-alikes fail."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import pytest

from tests.security.conftest import Border

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HEADER = "x-ringfence-privacy"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]},
    COMPLETIONS: {"model": "chat", "prompt": "Hi"},
    EMBEDDINGS: {"model": "embed", "input": "Hi"},
}
Headers = Sequence[tuple[str, str]]


async def sent(border: Border, path: str, raw: bytes, headers: Headers = ()) -> httpx.Response:
    """Send a raw body and headers, with a key whose requests may leave unchanged."""
    told = [("authorization", f"Bearer {border.keys['open']}"), *headers]
    return await border.backend.client.post(path, content=raw, headers=told)


def with_fields(path: str, *fields: str) -> bytes:
    """Build a valid body with raw JSON members at its end."""
    return orjson.dumps(BODIES[path])[:-1] + "".join(f",{one}" for one in fields).encode() + b"}"


REPEATED = {
    "stricter first": ('"privacy":"local_only"', '"privacy":"open"'),
    "stricter last": ('"privacy":"open"', '"privacy":"local_only"'),
    "in the middle": ('"privacy":"open"', '"privacy":"local_only"', '"privacy":"scrubbed"'),
    "null last": ('"privacy":"local_only"', '"privacy":null'),
    "an escaped letter": ('"privacy":"local_only"', '"priv\\u0061cy":"open"'),
    "all escaped": (
        '"\\u0070\\u0072\\u0069\\u0076\\u0061\\u0063\\u0079":"local_only"', '"privacy":"open"',
    ),
    "with blanks": ('"privacy" : "local_only"', '\n"privacy"\t:\r"open"'),
}  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fields", REPEATED.values(), ids=REPEATED)
async def test_repeated_field_takes_the_strictest(
    border: Border, path: str, fields: tuple[str, ...]
) -> None:
    assert (await sent(border, path, with_fields(path))).status_code == 200  # Else it leaves.
    left = len(border.provider.received)
    assert (await sent(border, path, with_fields(path, *fields))).status_code == 503
    assert len(border.provider.received) == left


LINES: dict[str, Headers] = {
    "stricter first": [(HEADER, "local_only"), (HEADER, "open")],
    "stricter last": [(HEADER, "open"), (HEADER, "local_only")],
    "another case": [("X-Ringfence-Privacy", "open"), ("X-RINGFENCE-PRIVACY", "local_only")],
    "a list": [(HEADER, "open, local_only")],
    "a list with tabs": [(HEADER, "local_only\t,\topen")],
    "a list in two lines": [(HEADER, "open,scrubbed"), (HEADER, "scrubbed,local_only")],
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
async def test_repeated_header_takes_the_strictest(
    border: Border, path: str, lines: Headers
) -> None:
    assert (await sent(border, path, with_fields(path), lines)).status_code == 503
    assert border.provider.connections == 0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "value",
    ["", ",", "open,", "secret", "Open", "LOCAL_ONLY", '"open"', "open;q=1", "local-only",
     "open local_only", "local_only, secret"],
)  # fmt: skip
async def test_header_that_is_no_class_is_refused_by_its_name(
    border: Border, path: str, value: str
) -> None:
    answer = await sent(border, path, with_fields(path), [(HEADER, value)])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, HEADER)
    assert border.provider.connections == 0


FIELDS = (  # Letters of other scripts are what is tested.
    "Privacy", "PRIVACY", "pRivacy", " privacy", "privacy ", "priv-acy", "pri_va_cy", "privaci",
    "pivacy", "privcay", "privacyy", "privacy_class", "privacyClass", "x-ringfence-privacy",
    "X-Ringfence-Privacy", "ringfence_privacy", "рrivacy", "prіvасy", "ｐｒｉｖａｃｙ", "𝓹𝓻𝓲𝓿𝓪𝓬𝔂",
    "privácy", "priva\u0301cy", "priv\u200bacy", "\ufeffprivacy", "privacy\u0000", "privacy[]",
    "ⓟrivacy", "privacy" + "\u200b" * 50,
)  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", FIELDS, ids=ascii)
async def test_field_that_looks_like_the_class_is_refused_by_its_name(
    border: Border, path: str, name: str
) -> None:
    raw = orjson.dumps(BODIES[path] | {name: "local_only"})
    answer = await sent(border, path, raw)
    error = answer.json()["error"]
    assert (answer.status_code, "privacy" in error["message"]) == (400, True)
    assert error["param"] in (name, "privacy")
    assert border.provider.connections == 0


@pytest.mark.parametrize("outer", ["extra_body", "extra_headers", "file_search", "stream_options"])
async def test_class_in_another_object_is_refused_by_its_place(border: Border, outer: str) -> None:
    raw = orjson.dumps(BODIES[CHAT] | {outer: {"privacy": "local_only"}})
    answer = await sent(border, CHAT, raw)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"{outer}.privacy")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "value", ['["local_only"]', '["open","local_only"]', '{"class":"open"}', '"Local_only"',
              '" local_only"', '"local_only "', '"local\\u200b_only"', '""', "0", "true"],
)  # fmt: skip
async def test_value_that_is_no_class_is_refused_by_its_field(
    border: Border, path: str, value: str
) -> None:
    for fields in ((f'"privacy":{value}',), (f'"privacy":{value}', '"privacy":"open"')):
        answer = await sent(border, path, with_fields(path, *fields))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "privacy")


@pytest.mark.parametrize(
    "name",
    ["x-ringfence_privacy", "x_ringfence_privacy", "ringfence-privacy", "x-ringfence-privacy-class",
     "x-ringfence-pivacy", "x-rinfence-privacy", "privacy", "x-privacy", "x-ringfenceprivacy",
     "x-ringfence-onfailure"],
)  # fmt: skip
async def test_header_that_looks_like_ours_is_refused_by_its_name(
    border: Border, name: str
) -> None:
    answer = await sent(border, CHAT, with_fields(CHAT), [(name, "local_only")])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("query", ["privacy=local_only", "x-ringfence-privacy=open", "Privacy="])
async def test_class_in_the_address_is_refused_by_its_name(border: Border, query: str) -> None:
    answer = await sent(border, f"{CHAT}?{query}", with_fields(CHAT))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize(
    "fields",
    [{"metadata": {"privacy": "private"}}, {"user": "privacy"}, {"store": True, "private": 1},
     {"prompt_cache_key": "privacy", "primary": True}],
)  # fmt: skip
async def test_field_that_only_mentions_it_is_ignored_as_others_are(
    border: Border, fields: dict[str, Any]
) -> None:
    assert (await sent(border, CHAT, orjson.dumps(BODIES[CHAT] | fields))).status_code == 200


async def test_names_of_unknown_fields_have_a_bound(border: Border) -> None:
    many = {secrets.token_hex(8): 1 for _ in range(1000)}
    answer = await sent(border, CHAT, orjson.dumps(BODIES[CHAT] | many))
    assert answer.status_code == 400


@pytest.mark.parametrize("stricter", [{HEADER: "local_only"}, {HEADER: "open, local_only"}])
async def test_stricter_repeat_is_not_told_the_answer_of_a_looser_class(
    border: Border, stricter: dict[str, str]
) -> None:
    key = [("idempotency-key", secrets.token_hex(8))]
    raw = with_fields(CHAT)
    assert (await sent(border, CHAT, raw, key)).headers[HEADER] == "open"
    assert (await sent(border, CHAT, raw, key)).headers["idempotent-replayed"] == "true"
    answer = await sent(border, CHAT, raw, [*key, *stricter.items()])
    assert answer.status_code == 409


async def test_key_s_class_holds_whatever_is_said(border: Border) -> None:
    told = {"authorization": f"Bearer {border.keys['local_only']}"}
    lines = [*told.items(), (HEADER, "open"), (HEADER, "open,open")]
    raw = with_fields(CHAT, '"privacy":"open"', '"privacy":"open"')
    answer = await border.backend.client.post(CHAT, content=raw, headers=lines)
    assert (answer.status_code, border.provider.connections) == (503, 0)
