"""Scripts of a text: those beside Latin that have words in it, however they are disguised.

Codes of scripts are those of ISO 15924, such as `Hani`. Knows no languages.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from fontTools.unicodedata import script

_READ = frozenset({"Latn", "Zyyy", "Zinh"})
"""Latin, characters that all scripts share, and marks that take the script of their letter."""

_SYMBOLS = frozenset({"Grek", "Zyyy", "Zzzz"})
"""Scripts of characters that mean something alone: letters of mathematics, units, icons."""

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_SPELT_GREEK = re.compile(r"(?:[\u0370-\u03ff\u1f00-\u1fff][\s._\u00b7-]{1,2}+){4}")
_BYTES_IN_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4}")
_UNSEEN = frozenset({"Cf", "Mn", "Me"})
_LETTERS = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mc", "Nl", "So", "Cn", "Co", "Cs"})


def foreign_scripts(text: str) -> set[str]:
    """Scripts other than Latin in which a text has words.

    Full-width, mathematical and circled letters count as what they stand for. A symbol,
    and a Greek letter that no other one stands beside (`Δx`, `π/2`, `µm`, `㎡`), are no words.
    """
    found = {"Zzzz"} if _BYTES_IN_SELECTORS.search(text) else set()
    greek = False
    for word in _words(text):
        if len(word) == 1 and script(word) in _SYMBOLS:
            greek = greek or "Grek" in _foreign(word)
        else:
            found.update(*map(_foreign, word))
    if greek and _SPELT_GREEK.search(unicodedata.normalize("NFKC", text) + " "):
        found.add("Grek")
    return found


def _words(text: str) -> Iterator[str]:
    """Letters of foreign scripts that stand together; marks without a width do not part them."""
    for run in _NOT_ASCII.findall(text):
        word = ""
        for char in run:
            if _foreign(char):
                word += char
            elif word and unicodedata.category(char) not in _UNSEEN:
                yield word
                word = ""
        if word:
            yield word


@lru_cache(maxsize=16_384)
def _foreign(char: str) -> frozenset[str]:
    """The foreign scripts of the letters that a character stands for."""
    if unicodedata.category(char) == "Sc":  # A sign of a currency may be made of letters.
        return frozenset()
    letters = (one for one in unicodedata.normalize("NFKC", char) if _is_letter(one))
    return frozenset(map(script, letters)) - _READ


def _is_letter(char: str) -> bool:
    return unicodedata.category(char) in _LETTERS
