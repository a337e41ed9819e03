"""Text without a useful case, given one: models know names by their capitals.

People type in lower case, and forms are in capitals. There, each word that is no English one gets a
capital and every other one is in lower case.
"""

from __future__ import annotations

import re

from serving.privacy.names.lexicon import Lexicon
from serving.privacy.names.tokens import WORD

_SENTENCE = re.compile(r"[^\n.!?]*(?:[.!?](?!\s)[^\n.!?]*)*[.!?]?")
_WORD = re.compile(WORD)
_CODE = re.compile(r"[_=<>{}\[\]|;`]|\w\(")
_FEWEST_WORDS = 3
_SHOUTED = 0.7
"""A sentence with this share of capitals among its letters is written in capitals."""


def recased(text: str, lexicon: Lexicon) -> str:
    """`text` with a case in the sentences that have no useful one; places are the same."""
    if _has_no_case(text):
        return _WORD.sub(lambda word: _cased(word[0], lexicon), text)
    return _SENTENCE.sub(
        lambda found: (
            _WORD.sub(lambda word: _cased(word[0], lexicon), found[0])
            if _has_no_case(found[0])
            else found[0]
        ),
        text,
    )


def _has_no_case(sentence: str) -> bool:
    letters = [letter for letter in sentence if letter.isalpha()]
    capitals = sum(letter != letter.lower() for letter in letters)
    if not letters or _CODE.search(sentence) or _SHOUTED > capitals / len(letters) > 0:
        return False
    return sum(1 for _ in _WORD.finditer(sentence)) >= _FEWEST_WORDS


def _cased(word: str, lexicon: Lexicon) -> str:
    low = "".join(map(_lower, word))
    return low if lexicon.knows(word) else _upper(low[0]) + low[1:]


def _lower(letter: str) -> str:
    return letter.lower() if len(letter.lower()) == 1 else letter


def _upper(letter: str) -> str:
    return letter.upper() if len(letter.upper()) == 1 else letter
