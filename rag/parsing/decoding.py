"""Decoding: bytes to text by byte order mark, as UTF-8, or by a guess at the encoding."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Literal

import charset_normalizer

from rag.errors import FileUnreadable

MAX_TEXT_BYTES = 80_000_000
"""Maximum size of a text file: four bytes for each character that a document may have."""

_SAMPLE_BYTES = 65_536
"""Bytes used to guess the encoding, which is slow."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is a prefix of this one.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded_file(path: Path) -> str:
    """Read a text file.

    Raises:
        FileUnreadable: the file is larger than a document may be.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise FileUnreadable(
            f"The file has more than {MAX_TEXT_BYTES // 1_000_000} MB of text; split it."
        )
    return decoded(path.read_bytes())


def decoded(data: bytes) -> str:
    """Decode bytes. Never fails: undecodable bytes are replaced."""
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
    """Detect UTF-16 by its zeros: most of every second byte, and almost no others."""
    zeros, half = head.count(0), len(head) // 2
    if zeros and head[1::2].count(0) > max(0.7 * half, 0.99 * zeros):
        return "utf-16-le"
    if zeros and head[::2].count(0) > max(0.7 * half, 0.99 * zeros):
        return "utf-16-be"
    return None
