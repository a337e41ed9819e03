"""Text of files that are text: Markdown, CSV, code and all others as they are; JSON laid out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from rag.parsing.decoding import decoded_file
from rag.parsing.document import Section


def plain_sections(path: Path) -> Iterator[Section]:
    """The text as one section.

    Raises:
        FileUnreadable: it is larger than a text may be.
    """
    yield Section(decoded_file(path))


def json_sections(path: Path) -> Iterator[Section]:
    """The value, a line for each part, with escaped characters as themselves.

    What is no JSON (several values, comments, one that is nested too deep) stays as it is.

    Raises:
        FileUnreadable: it is larger than a text may be.
    """
    text = decoded_file(path)
    try:
        yield Section(orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode())
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        yield Section(text)
