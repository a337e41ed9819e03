"""Replacements in the texts of a request, from what a detector found.

Beyond the detector's own spans: values cut in two by parts of a message, names that were found in
one text and missed in another, and text that looks like a pseudonym.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter

from serving.privacy.json_text import has_escapes, meant, without_escapes
from serving.privacy.scrubbing.body_template import Context, Position, Template
from serving.privacy.scrubbing.pseudonym_variants import LOOK_ALIKE
from serving.privacy.spans import Span, merged

LOOKS_ALIKE = -1.0
"""Score of text that only looks like a pseudonym: below any detector's."""

REPEATED = frozenset({"PERSON", "ORGANISATION", "ADDRESS", "PLACE"})
"""Types that models find, by the words around a name; every repetition is replaced too."""

MIN_REPEATED_CHARS = 5
MAX_REPEATED = 200

Places = tuple[tuple[int, int, int], ...]
"""Positions in a text that was joined: which, where it begins, and where it ends. In order."""

Found = Mapping[str, Sequence[Span]]
"""The spans in each text that was read."""


@dataclass(frozen=True, slots=True)
class Marked:
    """The joined text of a unit, the places of its positions, and the spans to replace."""

    text: str = field(repr=False)
    places: Places
    spans: tuple[Span, ...]


def readings(form: Template) -> list[str]:
    """Each text that a detector has to read, once."""
    joined = [unit for unit in form.units if len(unit) > 1]
    texts = [one.text for one in form.positions if one.treatment != "id"]
    texts += [meant(text)[0] for text in texts if has_escapes(text)]
    texts += [_laid_out(pieces, form.positions)[0] for pieces in (*joined, *form.contexts)]
    return list(dict.fromkeys(texts))


def marked(form: Template, found: Found) -> list[Marked]:
    """Return all units of a request but its ids, in order, with the spans to replace."""
    own = _by_position(form, found)
    units = [
        _unit(unit, own, found, form.positions)
        for unit in form.units
        if form.positions[unit[0]].treatment != "id"
    ]
    return _with_repeats(units)


def values(unit: Marked) -> Iterator[tuple[Span, str]]:
    """Each span of a unit with what its text means."""
    for span in unit.spans:
        text = unit.text[span.start : span.end]
        yield span, without_escapes(text) if has_escapes(text) else text


def pieces(places: Places, span: Span) -> Iterator[tuple[int, int, int]]:
    """The parts of a span: the position each is in, its start and its end there."""
    for place in range(bisect_right(places, span.start, key=itemgetter(2)), len(places)):
        at, start, end = places[place]
        if start >= span.end:
            return
        yield at, max(span.start, start) - start, min(span.end, end) - start


def _laid_out(context: Context, positions: Sequence[Position]) -> tuple[str, Places]:
    """The text that pieces make together, and where the positions are in it."""
    texts, places, length = [], [], 0
    for piece in context:
        text = piece if isinstance(piece, str) else positions[piece].text
        start, length = length, length + len(text)
        texts.append(text)
        if not isinstance(piece, str):
            places.append((piece, start, length))
    return "".join(texts), tuple(places)


def _by_position(form: Template, found: Found) -> list[list[Span]]:
    """Return the spans in each position, found in itself and in the document around it."""
    own = [_read(one.text, found) for one in form.positions]
    for context in form.contexts:
        text, places = _laid_out(context, form.positions)
        for span in found.get(text, ()):
            for at, start, end in pieces(places, span):
                own[at].append(replace(span, start=start, end=end))
    return [
        _whole(position, spans) if position.treatment == "number" else spans
        for position, spans in zip(form.positions, own, strict=True)
    ]


def _read(text: str, found: Found) -> list[Span]:
    """Return the spans in a text, also behind JSON's escapes."""
    spans = list(found.get(text, ()))
    if has_escapes(text):
        plain, places = meant(text)
        spans += [
            replace(one, start=places[one.start], end=places[one.end])
            for one in found.get(plain, ())
        ]
    return spans


def _whole(position: Position, spans: Sequence[Span]) -> list[Span]:
    """Extend spans over whole numbers: a number is one value."""
    best = max(spans, key=lambda one: one.score, default=None)
    return [] if best is None else [replace(best, start=0, end=len(position.text))]


def _unit(
    unit: tuple[int, ...], own: list[list[Span]], found: Found, positions: Sequence[Position]
) -> Marked:
    text, places = _laid_out(unit, positions)
    spans = [
        replace(one, start=one.start + start, end=one.end + start)
        for at, start, _ in places
        for one in own[at]
    ]
    if len(unit) > 1:
        covered = {at for one in spans for at in range(one.start, one.end)}
        spans += [one for one in found.get(text, ()) if _adds(text, one, covered)]
    return Marked(text, places, tuple(_with_look_alikes(text, spans)))


def _adds(text: str, span: Span, covered: set[int]) -> bool:
    """Whether a span has a letter or a digit that was not covered yet."""
    return any(at not in covered and text[at].isalnum() for at in range(span.start, span.end))


def _with_look_alikes(text: str, spans: Sequence[Span]) -> list[Span]:
    """Extend spans over look-alikes: each is one value."""
    alike = [Span(*found.span(), "CUSTOM", LOOKS_ALIKE) for found in LOOK_ALIKE.finditer(text)]

    def is_inside(span: Span) -> bool:
        place = bisect_right(alike, span.start, key=attrgetter("start"))
        return place > 0 and span.end <= alike[place - 1].end

    return merged([*(span for span in spans if not is_inside(span)), *alike])


def _with_repeats(units: list[Marked]) -> list[Marked]:
    """Names that were found once are replaced wherever they stand as the same words."""
    known = {
        value: span
        for unit in units
        for span, value in values(unit)
        if span.entity in REPEATED and span.score >= 0 and len(value) >= MIN_REPEATED_CHARS
    }
    if not known:
        return units
    longest = sorted(known, key=len, reverse=True)[:MAX_REPEATED]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
    return [_repeated(unit, pattern, known) for unit in units]


def _repeated(unit: Marked, pattern: re.Pattern[str], known: Mapping[str, Span]) -> Marked:
    again = [
        Span(*found.span(), known[found[0]].entity, 0.0) for found in pattern.finditer(unit.text)
    ]
    return replace(unit, spans=tuple(merged([*unit.spans, *again]))) if again else unit
