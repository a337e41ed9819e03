"""Refuses texts in languages in which the detector finds no names.

Text in another script or language stays, unless the operator lets that language leave unread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from fontTools.unicodedata import script_name

from serving.domain.languages import LANGUAGES, READ
from serving.privacy.languages.decoded_text import revealed
from serving.privacy.languages.scripts import foreign_scripts
from serving.privacy.refusals import Unread
from serving.privacy.scrubbing.protocol_words import WORDS
from serving.privacy.scrubbing.pseudonym_variants import LOOK_ALIKE

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MAX_DOUBT: Final = 0.02
"""A piece stays if allowed languages have no more than this probability together."""

MIN_CERTAINTY: Final = 0.5
"""It stays only if the three likeliest other languages have at least this probability together.
Close languages share a text; text in no language is a little of each."""

MIN_WORDS: Final = 3
MIN_SHOUTED_WORDS: Final = 5
MIN_FOREIGN_LETTERS: Final = 12
"""Least evidence of a language: different words, and letters of scripts without spaces."""

SHORT_CHARS: Final = 120
"""Pieces too short to tell are told together, about as many as these."""

LONG_CHARS: Final = 240
"""A longer sentence is told in parts, or most of it would speak for the rest."""

_SAME = {
    "ary": "ar", "arz": "ar", "grc": "el", "hbo": "he", "nn": "no", "sdh": "ku", "uzs": "uz",
    "wuu": "zh", "yue": "zh",
    "pcm": "en", "zxx": "en",
}  # fmt: skip
"""Labels of the identifier beside our codes: forms of one language; `zxx`, no language, is code."""

_CUT = re.compile(
    r"\n|\\n|(?<=[.!?:;])\s+|[\"\u201c\u201d\u201e\u00ab\u00bb()\[\]{}<>|\t]|\s[-\u2013\u2014]\s"
)
_PART = re.compile(rf".{{1,{LONG_CHARS}}}(?:\s|\Z)|.{{1,{LONG_CHARS}}}", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_FOREIGN_LETTER = re.compile(r"[\u0370-\u1dff\u2c00-\ua6ff\ua840-\ufaff]")


def check_read(texts: Iterable[str], allowed: frozenset[str] = frozenset()) -> None:
    """Refuse text in a script or a language that is not read for names.

    Args:
        texts: all that would leave, with pseudonyms in it or not.
        allowed: languages that may leave unread.

    Raises:
        Unread: which script or language, without text.
    """
    languages = READ | allowed
    plain = [revealed(LOOK_ALIKE.sub(" ", text)) for text in texts if text not in WORDS]
    _check_scripts(plain, languages)
    for piece in _pieces("\n".join(plain)):  # A sentence may be cut into parts of a message.
        if (language := _other_language(piece, languages)) is not None:
            raise Unread(language)


def check_scripts(texts: Iterable[str], allowed: frozenset[str] = frozenset()) -> None:
    """Check scripts only. Raises `Unread`."""
    _check_scripts(map(revealed, texts), READ | allowed)


def load_identifier() -> None:
    """Load the identifier of languages, which takes half a second and 75 MB."""
    _identifier()


def _check_scripts(texts: Iterable[str], languages: frozenset[str]) -> None:
    for script in set().union(*map(foreign_scripts, texts)) - _scripts(languages):
        raise Unread(f"the {script_name(script)} script")


@lru_cache(maxsize=64)
def _scripts(languages: frozenset[str]) -> frozenset[str]:
    return frozenset().union(*(LANGUAGES[code].scripts for code in languages))


def _pieces(text: str) -> Iterator[str]:
    """Sentences, quotations and lines that are long enough to tell; short neighbours together."""
    short = ""
    for piece in (part for sentence in _CUT.split(text) for part in _PART.findall(sentence)):
        tells = _tells(piece)
        if not tells:
            short += f" {piece}"
        if short and (tells or len(short) > SHORT_CHARS):
            if _tells(short):
                yield short
            short = ""
        if tells:
            yield piece
    if _tells(short):
        yield short


def _tells(piece: str) -> bool:
    """Whether a piece has enough words in it to tell a language by, and not only names."""
    words = _WORD.findall(piece)
    different = len({word.lower() for word in words})
    if different >= MIN_SHOUTED_WORDS and piece.isupper():
        return True
    if different >= MIN_WORDS and any(map(str.islower, words)):
        return True
    return not piece.isascii() and len(_FOREIGN_LETTER.findall(piece)) >= MIN_FOREIGN_LETTERS


def _other_language(piece: str, languages: frozenset[str]) -> str | None:
    """Return the language of a piece, if it is none of these."""
    label, share = _identifier().classify(piece)
    if _SAME.get(label, label) in languages and share > MAX_DOUBT:
        return None  # Nearly always; the rest is twice as slow.
    ranked = [(_SAME.get(label, label), share) for label, share in _identifier().rank(piece)]
    if sum(share for code, share in ranked if code in languages) > MAX_DOUBT:
        return None
    others = [(code, share) for code, share in ranked if code not in languages]
    if sum(share for _, share in others[:3]) < MIN_CERTAINTY:
        return None
    code = next(code for code, _ in others if code in LANGUAGES)
    return f"{LANGUAGES[code].name} ({code})"


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import (  # noqa: PLC0415  It and its model are only where something may leave.
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
