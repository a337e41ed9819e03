"""Text of text files: Markdown, CSV, code and others unchanged; JSON indented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from rag.parsing.decoding import decoded_file
from rag.parsing.document import Section


def plain_sections(path: Path) -> Iterator[Section]:
    """Return the text as one section.

    Raises:
        FileUnreadable: the file is larger than a text may be.
    """
    yield Section(decoded_file(path))


def json_sections(path: Path) -> Iterator[Section]:
    """Return the indented JSON as one section, with escaped characters decoded.

    Invalid JSON (several values, comments, too deep nesting) stays unchanged.

    Raises:
        FileUnreadable: the file is larger than a text may be.
    """
    text = decoded_file(path)
    try:
        yield Section(orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode())
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        yield Section(text)
