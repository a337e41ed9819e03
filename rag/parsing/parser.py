"""Parses a file into a document with the parser of its media type, within bounds.

Every error of a library becomes a sentence that contains no text of the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from rag.errors import FileUnreadable
from rag.parsing import media_types
from rag.parsing.document import Document, Section, cleaned
from rag.parsing.mail import mail_sections
from rag.parsing.office import docx_sections, pptx_sections
from rag.parsing.pdf import pdf_sections
from rag.parsing.plain import json_sections, plain_sections
from rag.parsing.spreadsheet import xlsx_sections
from rag.parsing.web_page import html_sections

MAX_CHARACTERS = 20_000_000
"""Maximum characters of a document, about five million tokens."""

_PARSERS: dict[str, Callable[[Path], Iterator[Section]]] = {
    media_types.PDF: pdf_sections,
    media_types.DOCX: docx_sections,
    media_types.PPTX: pptx_sections,
    media_types.XLSX: xlsx_sections,
    media_types.HTML: html_sections,
    media_types.MARKDOWN: plain_sections,
    media_types.PLAIN: plain_sections,
    media_types.CSV: plain_sections,
    media_types.JSON: json_sections,
    media_types.MAIL: mail_sections,
}

_SAID_OF = {
    media_types.OLE: "Old Office files (.doc, .xls, .ppt) and encrypted ones are not read; "
    "save it as DOCX, XLSX or PPTX without a password.",
    media_types.RTF: "RTF files are not read; save it as DOCX or PDF.",
    media_types.ZIP: "Archives are not read; upload the files in it one by one.",
}

# Libraries log warnings that quote the file.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def parse(path: Path, *, media_type: str, filename: str) -> Document:
    """Parse a file.

    Args:
        path: location of the file.
        media_type: type from `media_types.media_type`.
        filename: name given by the client; an error message shows its suffix.

    Raises:
        FileUnreadable: the file cannot be parsed; the message is for users.
        MemoryError: the file needs too much memory.
    """
    parser = _PARSERS.get(media_type)
    if parser is None:
        raise FileUnreadable(_unsupported(media_type, filename), code="unsupported_file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _document(parser(path))
    except (FileUnreadable, MemoryError):
        raise
    except RecursionError as error:
        raise FileUnreadable("The file is nested too deep to be read.") from error
    except Exception as error:  # A bad file can make the libraries raise anything.
        raise FileUnreadable("The file is damaged: it cannot be read.") from error


def _document(sections: Iterator[Section]) -> Document:
    kept: list[Section] = []
    characters = 0
    for section in sections:
        characters += len(section.text)
        if characters > MAX_CHARACTERS:
            raise FileUnreadable(
                f"The file has more than {MAX_CHARACTERS:,} characters of text; split it."
            )
        text = cleaned(section.text)
        if text.strip():
            kept.append(Section(text, section.page))
    if not kept:
        raise FileUnreadable("The file has no text.")
    return Document(kept)


def _unsupported(media_type: str, filename: str) -> str:
    ending = PurePath(filename).suffix[:16] or "this"
    return _SAID_OF.get(media_type, f"Files of type {ending!r} ({media_type}) cannot be read.")
