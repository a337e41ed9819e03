"""A `multipart/form-data` body, parsed as it arrives: fields whole, the file piece by piece.

Keeps no more of the file than was fed to it last. Knows nothing of HTTP or of what fields mean.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.domain.errors import InvalidRequest

FILE = "file"
MAX_PARTS = 32
MAX_FIELD_BYTES = 16 * 1024
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
"""Largest header of a part; a file's name is in one."""

MAX_FILENAME = 512
"""Longest file name, in characters."""


class Form:
    """A form with one file, the part `file`, among fields.

    Args:
        content_type: the header of the body.
        known: names of the fields that are kept; of others only the names are.

    Raises:
        InvalidRequest: not a form, or without a boundary.
    """

    def __init__(self, content_type: str, known: AbstractSet[str]) -> None:
        self.fields: dict[str, str] = {}
        self.ignored: list[str] = []
        self.filename: str | None = None
        self.complete = False
        self._known = known
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._pieces: list[bytes] = []
        self._parser = self._make_parser(_boundary(content_type))

    def feed(self, data: bytes) -> list[bytes]:
        """Parse some more of the body: the pieces of the file that were in it.

        Raises:
            InvalidRequest: malformed, or with other parts than one file and fields.
        """
        self._pieces = []
        try:
            self._parser.write(data)
        except FormParserError:
            raise InvalidRequest("The body is not a valid multipart form.") from None
        return self._pieces

    def end(self) -> None:
        """Finish. Raises `InvalidRequest` if something is missing."""
        if not self.complete:
            raise InvalidRequest("The body ends in the middle of the multipart form.")
        if self.filename is None:
            raise InvalidRequest("file: is required, as a part with a filename", param=FILE)

    def _make_parser(self, boundary: bytes) -> MultipartParser:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"A form has at most {MAX_PARTS} parts.")
        self._disposition = b""
        self._value.clear()

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = map(bytes, self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = (bytearray(), bytearray())

    def _open_part(self) -> None:
        # The parser takes the header for Latin-1 and gives that back: the bytes stay as they came.
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        if b"name" not in options:
            raise InvalidRequest("A part of the form has no name.")
        self._name = _text(options[b"name"])
        if self._name == FILE:
            self._open_file(options.get(b"filename"))
        elif b"filename" in options:
            raise InvalidRequest("A form holds one file, as its part `file`.", param=FILE)
        elif self._name in self.fields:
            raise InvalidRequest(f"{self._name}: stands twice", param=self._name)
        elif self._name not in self._known:
            self.ignored.append(self._name)

    def _open_file(self, filename: bytes | None) -> None:
        if filename is None:
            raise InvalidRequest("file: must be a file with a filename", param=FILE)
        if self.filename is not None:
            raise InvalidRequest("file: stands twice; upload one file at a time", param=FILE)
        # https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
        self.filename = plain_name(_text(filename.replace(b"%22", b'"')))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE:
            self._pieces.append(data[start:end])
        elif self._name in self._known:
            self._value.extend(data[start:end])
            if len(self._value) > MAX_FIELD_BYTES:
                raise InvalidRequest(
                    f"{self._name}: has more than {MAX_FIELD_BYTES} bytes", param=self._name
                )

    def _end_part(self) -> None:
        if self._name != FILE and self._name in self._known:
            self.fields[self._name] = _text(self._value)

    def _end_form(self) -> None:
        self.complete = True


def plain_name(sent: str) -> str:
    """A file's name without directories, and without characters that cannot be seen.

    Raises:
        InvalidRequest: nothing is left of it, or it is too long.
    """
    last = sent.replace("\\", "/").rpartition("/")[2]
    name = "".join(one if one.isprintable() else "_" for one in last).strip()
    if name in ("", ".", ".."):
        raise InvalidRequest("file: its filename is empty", param=FILE)
    if len(name) > MAX_FILENAME:
        raise InvalidRequest(
            f"file: its filename has more than {MAX_FILENAME} characters", param=FILE
        )
    return name


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise InvalidRequest("Send the file as multipart/form-data.", param="content-type")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise InvalidRequest(
            "The header content-type names no boundary of 1 to 70 characters.",
            param="content-type",
        )
    return boundary


def _text(raw: bytes | bytearray) -> str:
    return raw.decode("utf-8", "replace")
