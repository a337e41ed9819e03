r"""The forms of a pseudonym: as it was issued, and as a model may write it. Knows no streams.

A model may change case (`person_7kq2m9xd`), the separator (`Person 7KQ2M9XD`, `PERSON-7KQ2M9XD`,
`PERSON\_7KQ2M9XD` of Markdown, none) and what stands around it (`**PERSON_7KQ2M9XD**`,
`PERSON_7KQ2M9XD's`). A tag without its label, `7KQ2M9XD`, is no form: it would be held back in
streams for nothing, since models rarely drop the label.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache

from serving.privacy.pseudonyms import ALPHABET, CALL, TAG_CHARS
from serving.privacy.spans import ENTITY_TYPES

LABELS: tuple[str, ...] = (*ENTITY_TYPES, CALL)

LOOK_ALIKE = re.compile(
    f"({'|'.join(LABELS)})_(?=[A-Z]{{0,{TAG_CHARS - 1}}}[0-9])[{ALPHABET}]{{{TAG_CHARS}}}"
)
"""Matches the form of an issued pseudonym, whoever wrote it; the group is its label."""

_SEPARATORS = " _-*`\\\u00a0\u2010\u2011"
_SEPARATOR = f"[{re.escape(_SEPARATORS)}]{{0,4}}"
_WITHOUT_SEPARATORS = dict.fromkeys(map(ord, _SEPARATORS))

Match = tuple[int, int, str | None]
"""Start, end and value; the value is None if the end of the text cut the form."""


class Forms:
    """Finds the pseudonyms of one request in text, in any form.

    No form is the beginning of another and none fits into one, so what is found does not depend on
    where a text is cut.

    Args:
        values: from each pseudonym to what it stands for.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name.replace("_", ""): value for name, value in values.items()}
        self._names = sorted(self._values)
        self._pattern = _pattern(frozenset(name.rpartition("_")[0] for name in values))

    def __bool__(self) -> bool:
        return bool(self._names)

    def first(self, text: str, at: int = 0) -> Match | None:
        """The first form from `at` on, or what the end of the text has left of one."""
        while found := self._pattern.search(text, at):
            name = found[0].translate(_WITHOUT_SEPARATORS).upper()
            if (value := self._values.get(name)) is not None:
                return found.start(), found.end(), value
            if found.end() == len(text) and self._begins(name):
                return found.start(), found.end(), None
            at = found.start() + 1
        return None

    def all(self, text: str) -> Iterator[tuple[int, int]]:
        """Find whole forms."""
        at = 0
        while (found := self.first(text, at)) and found[2] is not None:
            yield found[0], found[1]
            at = found[1]

    def _begins(self, start: str) -> bool:
        place = bisect_left(self._names, start)
        return place < len(self._names) and self._names[place].startswith(start)


@lru_cache(maxsize=256)
def _pattern(labels: frozenset[str]) -> re.Pattern[str]:
    """A whole form of one of the labels with any tag, or the beginning of one at the very end."""
    if not labels:
        return re.compile(r"(?!)")
    forms = "|".join(f"{_whole(one)}|{_beginning(one)}\\Z" for one in sorted(labels))
    return re.compile(forms, re.IGNORECASE | re.ASCII)


def _whole(label: str) -> str:
    return f"{_SEPARATOR.join(label.split('_'))}{_SEPARATOR}[{ALPHABET}]{{{TAG_CHARS}}}"


def _beginning(label: str) -> str:
    """`P(?:E(?:R...)?)?`: one character or more of a form, not all of it."""
    letters = [_SEPARATOR if char == "_" else char for char in label]
    rest = f"(?:{_SEPARATOR}[{ALPHABET}]{{0,{TAG_CHARS - 1}}})?"
    for letter in reversed(letters[1:]):
        rest = f"(?:{letter}{rest})?"
    return letters[0] + rest
