"""Detects the media type of a file by its first bytes; the type of a text file also by its name."""

from __future__ import annotations

import re
from pathlib import PurePath

import filetype  # type: ignore[import-untyped]
import orjson

from rag.parsing.decoding import utf16_without_mark

HEAD_BYTES = 8192
"""Bytes at the start of a file that detection needs."""

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
HTML = "text/html"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"
CSV = "text/csv"
JSON = "application/json"
MAIL = "message/rfc822"
ZIP = "application/zip"
OLE = "application/x-ole-storage"
RTF = "application/rtf"
UNKNOWN = "application/octet-stream"

SUPPORTED = frozenset({PDF, DOCX, PPTX, XLSX, HTML, MARKDOWN, PLAIN, CSV, JSON, MAIL})
"""Types that can be parsed. Other files are stored, but cannot be put into a vector store."""

_OFFICE = {".docx": DOCX, ".pptx": PPTX, ".xlsx": XLSX}
_STARTS = ((b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE), (b"{\\rtf", RTF))
_MEMBERS = ((b"word/", DOCX), (b"ppt/", PPTX), (b"xl/", XLSX))
_TEXT_NAMES = {
    ".htm": HTML, ".html": HTML, ".xhtml": HTML, ".md": MARKDOWN, ".markdown": MARKDOWN,
    ".csv": CSV, ".tsv": CSV, ".json": JSON, ".eml": MAIL,
}  # fmt: skip

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_HTML_START = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b",
                         re.IGNORECASE | re.DOTALL)  # fmt: skip
_MAIL_HEADER = re.compile(r"^([A-Za-z][A-Za-z-]*):[ \t]", re.MULTILINE)
_MAIL_MARKS = frozenset({"received", "message-id", "mime-version", "return-path", "date"})


def media_type(head: bytes, filename: str) -> str:
    """Detect the media type of a file.

    Args:
        head: its first `HEAD_BYTES`, or the whole file.
        filename: name given by the client; used only if the bytes are not conclusive.

    Returns:
        A member of `SUPPORTED` if the file can be parsed.
    """
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-"):
        return PDF
    if head.startswith(b"PK\x03\x04"):
        return _zipped(head, filename)
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    text = _text(head)
    if text is not None:
        return _kind_of_text(text, head, filename)
    if b"%PDF-" in head[:1024]:  # PDF readers accept other bytes before the header.
        return PDF
    return filetype.guess_mime(head) or UNKNOWN


def _zipped(head: bytes, filename: str) -> str:
    """Detect by the first members; if a large member hides the others, the file name decides."""
    for name, kind in _MEMBERS:
        if re.search(rb"PK\x03\x04.{26}" + name, head, re.DOTALL):
            return kind
    if b"mimetypeapplication/" in head[:64]:  # OpenDocument and EPUB begin with their media type.
        return ZIP
    return _OFFICE.get(PurePath(filename).suffix.lower(), ZIP)


def _text(head: bytes) -> str | None:
    """Decode the head for inspection; None if it is not text."""
    if head.startswith(_BYTE_ORDER_MARKS):
        encoding = "utf-8" if head.startswith(b"\xef\xbb\xbf") else "utf-16"
        return head.decode(encoding, "replace")
    if b"\x00" in head:
        wide = utf16_without_mark(head)
        return None if wide is None else head.decode(wide, "replace")
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        cut_at_the_end = error.end == len(head) >= HEAD_BYTES
        text = head[: error.start].decode() if cut_at_the_end else head.decode("latin-1")
    strange = len(_CONTROL.findall(head))
    return None if strange > len(head) // 100 else text


def _kind_of_text(text: str, head: bytes, filename: str) -> str:
    if _HTML_START.match(text):
        return HTML
    named = _TEXT_NAMES.get(PurePath(filename).suffix.lower())
    if named is not None:
        return named
    if _is_mail(text):
        return MAIL
    return JSON if _is_json(head) else PLAIN


def _is_mail(text: str) -> bool:
    headers = {name.lower() for name in _MAIL_HEADER.findall(text.partition("\n\n")[0])}
    return _MAIL_HEADER.match(text) is not None and "from" in headers and bool(
        headers & _MAIL_MARKS
    )  # fmt: skip


def _is_json(head: bytes) -> bool:
    """Whether the head is a complete JSON object or array."""
    if not head.lstrip().startswith((b"{", b"[")):
        return False
    try:
        orjson.loads(head)
    except orjson.JSONDecodeError:
        return False
    return True
