"""All that finds personal data, together: patterns, two models for names, and rules.

Synchronous, and for one thread at a time. Knows nothing of processes or deadlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from serving.privacy.detector.phone_rules import phones
from serving.privacy.detector.windows import TextWindow, windows_of
from serving.privacy.names.lexicon import Lexicon
from serving.privacy.names.models import PACKAGES, NameModels, directory_of
from serving.privacy.names.name_rules import NameRules
from serving.privacy.names.truecasing import recased
from serving.privacy.patterns import patterns
from serving.privacy.patterns.normalised import with_plain_letters
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.spans import Span, merged

LEXICON = PACKAGES[0]
"""The package whose tables of English words are used."""

_ESCAPED = re.compile(r"\\[nrt]")


class PersonalData:
    """Finds personal data. Loading the models takes seconds and some 300 MB.

    Args:
        rules: the operator's own patterns and words.
    """

    def __init__(self, rules: OperatorRules | None = None) -> None:
        self._rules = rules or OperatorRules()
        self._models = NameModels()
        self._lexicon = Lexicon(directory_of(LEXICON))
        self._name_rules = NameRules(self._lexicon)

    def detect(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, in order, none of them overlapping."""
        windows = windows_of(texts)
        return self.joined(texts, windows, self.look(windows))

    def look(self, windows: Sequence[TextWindow]) -> list[list[Span]]:
        """What models and rules find in each window; offsets are of the window's text."""
        folded = [with_plain_letters(window.text) for window in windows]
        texts = [_unescaped(one.text) for one in folded]
        cased = [recased(text, self._lexicon) for text in texts]
        named = self._models.find(cased, texts)
        return [
            [
                folded[i].in_original(span)
                for span in (
                    *self._name_rules.find(cased[i], named[i]),
                    *phones(text),
                )
            ]
            for i, text in enumerate(texts)
        ]

    def joined(
        self, texts: Sequence[str], windows: Iterable[TextWindow], found: Iterable[Iterable[Span]]
    ) -> list[list[Span]]:
        """Spans of whole texts: those of their windows, and what patterns find in all of it.

        A pattern may be longer than a window, as a private key is.
        """
        spans = [list(patterns.find(text, self._rules)) for text in texts]
        for window, seen in zip(windows, found, strict=True):
            spans[window.index].extend(window.in_text(seen))
        return [merged(of_text) for of_text in spans]


def _unescaped(text: str) -> str:
    r"""`text` with `\n` and its like, as they are in JSON inside a text, as line breaks.

    As long as it was, so places are the same.
    """
    return _ESCAPED.sub(" \n", text)
