"""Bytes to text: by byte order mark, as UTF-8, or else by what the bytes look like."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Literal

import charset_normalizer

from rag.errors import FileUnreadable

MAX_TEXT_BYTES = 80_000_000
"""Of a file that is text: four for each character that a document may have."""

_SAMPLE_BYTES = 65_536
"""For guessing an encoding, which is slow."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded_file(path: Path) -> str:
    """The text of a file.

    Raises:
        FileUnreadable: it is larger than a document may be.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise FileUnreadable(
            f"The file has more than {MAX_TEXT_BYTES // 1_000_000} MB of text; split it."
        )
    return decoded(path.read_bytes())


def decoded(data: bytes) -> str:
    """The text of bytes. Never fails: what fits no encoding is replaced."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    sample = data[:_SAMPLE_BYTES]
    if (wide := utf16_without_mark(sample)) is not None:
        return data.decode(wide, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(sample).best()
        return data.decode("latin-1" if best is None else best.encoding, "replace")


def utf16_without_mark(head: bytes) -> Literal["utf-16-le", "utf-16-be"] | None:
    """The encoding of text of which every other byte is mostly zero, and no other byte is."""
    zeros, half = head.count(0), len(head) // 2
    if zeros and head[1::2].count(0) > max(0.7 * half, 0.99 * zeros):
        return "utf-16-le"
    if zeros and head[::2].count(0) > max(0.7 * half, 0.99 * zeros):
        return "utf-16-be"
    return None
