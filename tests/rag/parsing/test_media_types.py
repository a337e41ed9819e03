from __future__ import annotations

import os

import pytest

from rag.parsing import media_types
from rag.parsing.media_types import HEAD_BYTES, media_type
from tests.rag.parsing.sample_files import changed_zip, mail, pdf, sheets, slides, word


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pdf(["a"]), media_types.PDF),
        (b"\x01\x02\x00\x80 junk\n" + pdf(["a"]), media_types.PDF),
        (word(), media_types.DOCX),
        (slides(), media_types.PPTX),
        (sheets(), media_types.XLSX),
        (mail(), media_types.MAIL),
        (b"<!DOCTYPE html><p>hello", media_types.HTML),
        (b"\n<!-- note --><HTML lang=en>", media_types.HTML),
        (b'{"a": [1, 2]}', media_types.JSON),
        (b"Some words.", media_types.PLAIN),
        ("Ünïcödé".encode("utf-16"), media_types.PLAIN),
        ("Plain words of UTF-16".encode("utf-16-le"), media_types.PLAIN),
        ("Straße in altem Zeichensatz".encode("latin-1"), media_types.PLAIN),
        (b"", media_types.PLAIN),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), media_types.OLE),
        (b"{\\rtf1 hello}", media_types.RTF),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "image/png"),
        (bytes(range(256)) * 8, media_types.UNKNOWN),
    ],
)
def test_media_type_is_told_by_content_whatever_the_name_says(data: bytes, expected: str) -> None:
    assert expected == media_type(data[:HEAD_BYTES], "invoice.exe")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.md", media_types.MARKDOWN),
        ("a.CSV", media_types.CSV),
        ("a.json", media_types.JSON),
        ("a.html", media_types.HTML),
        ("a.eml", media_types.MAIL),
        ("a.py", media_types.PLAIN),
        ("a.pdf", media_types.PLAIN),
        ("a", media_types.PLAIN),
    ],
)
def test_media_type_of_a_text_is_told_by_its_name(name: str, expected: str) -> None:
    assert expected == media_type(b"some, text", name)


def test_media_type_of_random_bytes_is_not_what_their_name_says() -> None:
    assert media_type(b"\x01\x02\x80\xff" + os.urandom(4000), "a.pdf") not in media_types.SUPPORTED


def test_media_type_of_text_cut_within_a_character_is_text() -> None:
    head = ("x" + "ü" * HEAD_BYTES).encode()[:HEAD_BYTES]
    assert media_type(head, "a.txt") == media_types.PLAIN


def test_media_type_of_an_archive_is_no_office_file() -> None:
    archive = changed_zip(word(), {})
    other = archive.replace(b"word/", b"wort/")
    assert media_type(other[:HEAD_BYTES], "a.zip") == media_types.ZIP
