"""Text of HTML as a reader sees it, without scripts and styles. Fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lxml import etree  # type: ignore[import-untyped]

from rag.parsing.decoding import decoded_file
from rag.parsing.document import Section

_SKIPPED = frozenset(
    {
        "script", "style", "noscript", "template", "svg", "math", "iframe", "object", "head",
        "select", "textarea", "canvas", "audio", "video",
    }
)  # fmt: skip
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "dd", "details", "div", "dl", "dt",
        "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "main", "nav", "ol",
        "p", "pre", "section", "summary", "table", "tbody", "thead", "tfoot", "ul", "caption",
    }
)  # fmt: skip
_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_ENDS = {"br": "\n", "li": "\n", "tr": "\n", "td": " | ", "th": " | "}

_SPACE = re.compile(r"\s+")
_LINE_STARTS = re.compile(r"\n +(?=\n)")
_BLOCK_CHARACTERS = 65_536


def html_sections(path: Path) -> Iterator[Section]:
    """Return the page's title and text as one section.

    Raises:
        FileUnreadable: the file is larger than a text may be.
    """
    yield Section(html_text(decoded_file(path)))


def html_text(html: str) -> str:
    """Extract the text of a page; headings begin with `#`, and cells are separated by bars."""
    # With a target, libxml2 builds no tree, which it would silently cut off at a depth of 256.
    parser = etree.HTMLParser(target=_Reader(), encoding="utf-8", no_network=True)
    for start in range(0, len(html), _BLOCK_CHARACTERS):
        parser.feed(html[start : start + _BLOCK_CHARACTERS].encode("utf-8", "replace"))
    return str(parser.close()) if html else ""


class _Reader:
    """Collects text while the parser reads a page."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._skipped = 0
        self._verbatim = 0
        self._in_title = False

    def start(self, tag: str, _attributes: object) -> None:
        """Handle the start of an element."""
        self._skipped += tag in _SKIPPED
        self._verbatim += tag == "pre"
        self._in_title = tag == "title"
        if self._skipped:
            return
        if tag in _HEADINGS:
            self._parts.append("\n\n" + _HEADINGS[tag])
        elif tag == "li":
            self._parts.append("\n- ")
        elif tag in _BLOCKS:
            self._parts.append("\n\n")

    def end(self, tag: str) -> None:
        """Handle the end of an element."""
        if tag in _SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        self._verbatim -= tag == "pre"
        self._in_title = False
        if not self._skipped:
            block = "\n\n" if tag in _HEADINGS or tag in _BLOCKS or tag == "title" else ""
            self._parts.append(block or _ENDS.get(tag, ""))

    def data(self, text: str) -> None:
        """Handle a piece of text."""
        if self._in_title:
            self._parts.append(text)
        elif not self._skipped:
            self._parts.append(text if self._verbatim else _SPACE.sub(" ", text))

    def close(self) -> str:
        """Return the collected text."""
        return _LINE_STARTS.sub("\n", "".join(self._parts)).strip()
