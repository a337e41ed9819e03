"""The last scan: the very bytes that are about to be sent, read once more.

For personal data that has a form, and for text that nobody has read for names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import orjson

from serving.privacy.json_text import has_escapes, meant, texts
from serving.privacy.languages.unread_text import check_read
from serving.privacy.refusals import StillPersonal, Unscrubbable
from serving.privacy.scrubbing.protocol_words import WORDS
from serving.privacy.scrubbing.pseudonym_variants import LOOK_ALIKE
from serving.privacy.spans import Span

Find = Callable[[str], Sequence[Span]]


def rescan(
    body: bytes, find: Find, known: Collection[str], languages: frozenset[str] = frozenset()
) -> None:
    """Refuse bytes that still hold what the patterns find.

    In any string, key or long number, and in JSON inside a string.

    Args:
        body: JSON, of any protocol.
        find: patterns that need no model.
        known: the pseudonyms that were issued for this request.
        languages: that may leave though nobody reads them.

    Raises:
        StillPersonal: what was found, by type.
        Unscrubbable: the bytes are no JSON. `Unread`: they have text that nobody has read.
    """
    try:
        told = orjson.loads(body)
    except ValueError:
        raise Unscrubbable("The bytes to be sent are no JSON.") from None
    found: set[str] = set()
    for text in texts(told):
        if text not in WORDS:
            found.update(_left(text, find, known))
        if has_escapes(text):
            found.update(_left(meant(text)[0], find, known))
    if found:
        raise StillPersonal(found)
    check_read(texts(told), languages)


def _left(text: str, find: Find, known: Collection[str]) -> list[str]:
    """Types that were found and are not pseudonyms, nor only words around them."""
    ours = [one.span() for one in LOOK_ALIKE.finditer(text) if one[0] in known]
    return [
        span.entity
        for span in find(text)
        if (rest := _outside(text, span, ours)) is None or find(rest)
    ]


def _outside(text: str, span: Span, ours: Sequence[tuple[int, int]]) -> str | None:
    """Return a span's text with blanks for our pseudonyms; None if it touches none."""
    touched = [(start, end) for start, end in ours if start < span.end and span.start < end]
    if not touched:
        return None
    rest, at = "", span.start
    for start, end in touched:
        rest += text[at:start] + " "
        at = end
    return rest + text[at : span.end]
