"""Multipart forms, split at any point."""

from __future__ import annotations

from itertools import pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.domain.errors import InvalidRequest
from serving.gateway.openai.multipart import (
    MAX_FIELD_BYTES,
    MAX_FILENAME,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PARTS,
    Form,
    plain_name,
)

TYPE = "multipart/form-data; boundary=XX"
KNOWN = {"purpose"}
CONTENT = b"one\r\n--XY\r\n--X two\r\n"
PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nuser_data'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + CONTENT


def form(*parts: bytes) -> bytes:
    return b"".join(b"--XX\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"


def parse(body: bytes, *cuts: int) -> tuple[Form, bytes]:
    parsed, pieces = Form(TYPE, KNOWN), []
    places = [0, *sorted(cuts), len(body)]
    for start, end in pairwise(places):
        pieces += parsed.feed(body[start:end])
    parsed.end()
    return parsed, b"".join(pieces)


WHOLE = form(PURPOSE, FILE)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_form_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    parsed, content = parse(WHOLE, *cuts)
    assert (parsed.fields, parsed.filename, content) == ({"purpose": "user_data"}, "a.txt", CONTENT)


@pytest.mark.parametrize("end", range(len(WHOLE) - 2))  # Without its last CRLF it is whole.
def test_form_that_breaks_off_is_refused(end: int) -> None:
    with pytest.raises(InvalidRequest):
        parse(WHOLE[:end])


def test_fields_may_come_after_the_file() -> None:
    parsed, content = parse(form(FILE, PURPOSE))
    assert (parsed.fields, content) == ({"purpose": "user_data"}, CONTENT)


def test_unknown_fields_are_ignored() -> None:
    other = b'Content-Disposition: form-data; name="other"\r\n\r\n' + b"x" * (MAX_FIELD_BYTES + 1)
    assert parse(form(other, PURPOSE, FILE))[0].fields == {"purpose": "user_data"}


def named(name: bytes, filename: bytes = b"a.txt") -> bytes:
    head = b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n'
    return head % (name, filename)


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([PURPOSE], "file"),
        ([FILE, FILE], "file"),
        ([FILE, named(b"other")], "file"),
        ([b'Content-Disposition: form-data; name="file"\r\n\r\ntext'], "file"),
        ([named(b"file", b"")], "file"),
        ([named(b"file", b"..")], "file"),
        ([named(b"file", b"a" * (MAX_FILENAME + 1))], "file"),
        ([FILE, PURPOSE, PURPOSE], "purpose"),
        ([PURPOSE + b"x" * MAX_FIELD_BYTES, FILE], "purpose"),
        ([b"Content-Disposition: form-data\r\n\r\ntext", FILE], None),
        ([b"Content-Type: text/plain\r\n\r\ntext", FILE], None),
        ([b"X: " + b"x" * MAX_HEADER_BYTES + b"\r\n" + FILE], None),
        ([b"X: y\r\n" * MAX_HEADERS + FILE], None),
        ([b"\x00: y\r\n" + FILE], None),
        ([PURPOSE.replace(b"purpose", b"other")] * MAX_PARTS + [FILE], None),
    ],
    ids=[
        *("no_file", "two_files", "other_file", "not_a_file", "no_name", "dots", "long_name"),
        *("twice", "large_field", "nameless", "undisposed", "huge_header", "many_headers"),
        *("bad_header", "many_parts"),
    ],
)
def test_form_of_other_parts_is_refused(parts: list[bytes], param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(form(*parts))
    assert refused.value.param == param


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "text/plain; boundary=XX",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 71,
    ],
)
def test_body_of_another_type_or_without_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Form(content_type, KNOWN)
    assert refused.value.param == "content-type"


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("notes.txt", "notes.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\notes.txt", "notes.txt"),
        ("r\u00e9sum\u00e9 \u6587.pdf", "r\u00e9sum\u00e9 \u6587.pdf"),
        ("a\r\nb\x00c\u202e.txt", "a__b_c_.txt"),
        ('say "hi";.txt', 'say "hi";.txt'),
    ],
)
def test_filename_is_plain(sent: str, plain: str) -> None:
    assert plain_name(sent) == plain


@pytest.mark.parametrize(
    "name", ["a b.txt", "\u00fc\u6587\U0001f600.txt", "it's;=.txt", 'a "b".txt']
)
def test_filename_of_a_client_arrives(name: str) -> None:
    request = httpx.Request("POST", "http://x", files={"file": (name, b"data")})
    parsed = Form(request.headers["content-type"], KNOWN)
    assert b"".join(parsed.feed(request.read())) == b"data"
    assert parsed.filename == name
