"""Text of DOCX and PPTX files: paragraphs and tables in order, marked headings, speaker's notes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import docx
import pptx
from lxml import etree  # type: ignore[import-untyped]

from rag.parsing.archive import check_archive
from rag.parsing.document import Section

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"

_SKIPPED = frozenset({_FALLBACK, f"{_W}del", f"{_W}moveFrom", f"{_W}pPr", f"{_W}sectPr"})
"""Skipped elements: fallbacks for old readers, deleted text, and tab stops, which resemble tabs."""

_TEXTS = frozenset({f"{_W}t", f"{_A}t"})
_BREAKS = {
    f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-", f"{_A}br": "\n",
}  # fmt: skip
_PARAGRAPHS = frozenset({f"{_W}p", f"{_A}p"})
_CELLS = frozenset({f"{_W}tc", f"{_A}tc"})
_ROWS = frozenset({f"{_W}tr", f"{_A}tr"})

_HEADING = re.compile(r"(?:heading|überschrift|titre) ?([1-6])$|(title)$", re.IGNORECASE)


def docx_sections(path: Path) -> Iterator[Section]:
    """Return the body of a document as one section; headings begin with `#`, as in Markdown.

    Raises:
        FileUnreadable: `check_archive` rejects the file.
    """
    check_archive(path)
    document = docx.Document(str(path))
    names = {style.style_id: style.name or "" for style in document.styles}
    found = {style: _HEADING.match(name) for style, name in names.items()}
    headings = {style: int(match[1] or 1) for style, match in found.items() if match}
    yield Section(_text(document.element.body, headings))


def pptx_sections(path: Path) -> Iterator[Section]:
    """Yield one section per slide, each with the speaker's notes at its end.

    Raises:
        FileUnreadable: `check_archive` rejects the file.
    """
    check_archive(path)
    for number, slide in enumerate(pptx.Presentation(str(path)).slides, 1):
        text = _text(slide.shapes.element, {})
        notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
        if notes is not None and notes.text.strip():
            text += f"\n\nNotes: {notes.text}"
        yield Section(text, number)


def _text(root: etree._Element, headings: Mapping[str, int]) -> str:
    """Return the text below an element.

    The text that the libraries return lacks insertions, content controls and text boxes, and
    repeats
    a merged cell as often as its declared width.
    """
    parts: list[str] = []
    cells = 0
    walk = etree.iterwalk(root, events=("start", "end"))
    for event, element in walk:
        if event == "start":
            if element.tag in _SKIPPED:
                walk.skip_subtree()
            elif element.tag in _PARAGRAPHS:
                parts.append(_heading(element, headings))
            cells += element.tag in _CELLS
        else:
            cells -= element.tag in _CELLS
            parts.append(_said(element, in_cell=cells > 0))
    return "".join(parts)


def _said(element: etree._Element, *, in_cell: bool) -> str:
    """Return an element's text, or the separator that follows the element."""
    if element.tag in _TEXTS:
        return element.text or ""
    if element.tag in _PARAGRAPHS:
        return " " if in_cell else "\n\n"
    if element.tag in _CELLS:
        return "| "
    return "\n" if element.tag in _ROWS else _BREAKS.get(element.tag, "")


def _heading(paragraph: etree._Element, headings: Mapping[str, int]) -> str:
    """Return the heading's `#` marks, one per level; empty if the paragraph is no heading."""
    style = paragraph.find(f"{_W}pPr/{_W}pStyle")
    level = 0 if style is None else headings.get(style.get(f"{_W}val", ""), 0)
    return "#" * level + " " if level else ""
