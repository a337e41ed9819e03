"""Scrubs a whole request: each value that is personal gives way to a pseudonym, in every position.

Knows OpenAI's request bodies as JSON. What it cannot read it refuses.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.threads import Threads
from serving.privacy.json_text import texts as texts_in
from serving.privacy.languages.unread_text import check_read, check_scripts
from serving.privacy.policy import PrivacyPolicy
from serving.privacy.pseudonyms import Pseudonyms
from serving.privacy.scrubbing.body_template import Position, Template
from serving.privacy.scrubbing.pseudonym_variants import LOOK_ALIKE, Forms
from serving.privacy.scrubbing.replacements import (
    LOOKS_ALIKE,
    Found,
    Marked,
    marked,
    pieces,
    readings,
    values,
)
from serving.privacy.scrubbing.text_fields import template
from serving.privacy.spans import Detector, DetectorUnavailable, EntityType, Span

_THREADS = Threads("scrub", 4)

TIMEOUT_S = 5.0

Edit = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A request that may leave, how many values of each type it lost, and what stands for them."""

    body: dict[str, Any] = field(repr=False)
    counts: Mapping[EntityType, int]
    pseudonyms: Pseudonyms


async def scrub(
    body: Mapping[str, Any],
    detector: Detector,
    *,
    policy: PrivacyPolicy,
    key: bytes,
    timeout_s: float = TIMEOUT_S,
) -> Scrubbed:
    """Scrub a chat, completion or embedding request.

    Every string, number and key is read but for the protocol's own words, in one call of the
    detector. A number that is personal becomes a pseudonym in a string. Text parts of one message
    are also read as one text: a value that they cut is replaced in the part where it begins, and
    taken out of the next, which may be empty then.

    Args:
        body: as it would be sent. It is not changed.
        detector: finds personal data.
        policy: what may leave, and what is restored.
        key: of the conversation; see `conversation_key`.
        timeout_s: how long all of it may take. Its own work is done in a thread.

    Raises:
        Blocked: the policy forbids a type that was found.
        Unscrubbable: something in the request cannot be read. `Unread`: nobody reads its language.
        DetectorUnavailable: the detector failed, or it all took too long.
    """
    try:
        async with asyncio.timeout(timeout_s):
            form, texts = await _THREADS.run(_read, body, policy)
            found = await _detected(texts, detector)
            return await _THREADS.run(_replaced, form, found, policy, key)
    except TimeoutError:
        raise DetectorUnavailable("Personal data was not found in time.") from None


def _read(body: Mapping[str, Any], policy: PrivacyPolicy) -> tuple[Template, list[str]]:
    """The template of a body, and the texts for the detector, which knows their scripts."""
    form = template(body)
    texts = readings(form)
    check_scripts(texts, policy.languages)
    return form, texts


async def _detected(texts: list[str], detector: Detector) -> Found:
    if not texts:
        return {}
    readable = [text.encode(errors="replace").decode() for text in texts]  # Lone surrogates.
    found = await detector.detect(readable)
    told = dict(zip(texts, found, strict=False))
    fits = all(0 <= one.start < one.end <= len(text) for text in told for one in told[text])
    if len(found) != len(texts) or not fits:
        raise DetectorUnavailable("The detector's answer does not fit what it was asked.")
    return told


def _replaced(form: Template, found: Found, policy: PrivacyPolicy, key: bytes) -> Scrubbed:
    units = marked(form, found)
    counts = Counter(span.entity for unit in units for span in unit.spans if _is_real(span))
    policy.check(counts)
    pseudonyms = Pseudonyms(key, never_restored=policy.never_restored)
    edits = _edits(units, pseudonyms)
    texts = [
        _text(position, edits.get(at, ()), pseudonyms) for at, position in enumerate(form.positions)
    ]
    body = form.filled(texts)
    # Only now, for a foreign name would make an English sentence foreign.
    check_read(texts_in(body), policy.languages)
    return Scrubbed(body, dict(counts), pseudonyms)


def _is_real(span: Span) -> bool:
    return span.score > LOOKS_ALIKE


def _edits(units: Sequence[Marked], pseudonyms: Pseudonyms) -> dict[int, list[Edit]]:
    """Return the edits of each position. Values get their pseudonyms first: see `of_look_alike`."""
    for unit in units:
        for span, value in values(unit):
            if _is_real(span):
                pseudonyms.of(value, span.entity)
    forms = Forms(pseudonyms.values)
    edits: dict[int, list[Edit]] = defaultdict(list)
    for unit in units:
        for span, name in _named(unit, forms, pseudonyms):
            for place, (at, start, end) in enumerate(pieces(unit.places, span)):
                edits[at].append((start, end, "" if place else name))
    return edits


def _named(unit: Marked, forms: Forms, pseudonyms: Pseudonyms) -> Iterator[tuple[Span, str]]:
    """Each span and what stands for it; then forms of this request's own pseudonyms."""
    for span, value in values(unit):
        if _is_real(span):
            yield span, pseudonyms.of(value, span.entity)
        else:
            yield span, _stand_in(value, pseudonyms)
    for start, end in forms.all(unit.text):
        if not any(span.start < end and start < span.end for span in unit.spans):
            value = unit.text[start:end]
            yield Span(start, end, "CUSTOM", LOOKS_ALIKE), _stand_in(value, pseudonyms)


def _stand_in(text: str, pseudonyms: Pseudonyms) -> str:
    alike = LOOK_ALIKE.fullmatch(text)
    return pseudonyms.of_look_alike(text, alike[1] if alike else "CUSTOM")


def _text(position: Position, edits: Sequence[Edit], pseudonyms: Pseudonyms) -> str:
    if position.treatment == "id":
        return pseudonyms.of_id(position.text)
    text, at = "", 0
    for start, end, new in sorted(edits):
        text += position.text[at:start] + new
        at = end
    return text + position.text[at:]
