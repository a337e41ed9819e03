"""Chunking: cuts a document into pieces of a bounded number of the embedder's tokens.

semchunk finds the boundaries (paragraphs, lines, sentences, clauses, words). For speed, tokens are
first estimated word by word with a cache; the resulting chunks are then counted exactly.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import cast

from semchunk.semchunk import chunk
from tokenizers import Tokenizer

from models.tokens.tokenizer_files import SPECIAL_NAMES, load_tokenizer, text_of, tokenizer_config
from rag.parsing.document import Document

_BETWEEN_SECTIONS = "\n\n"

_LONGEST_TOKEN_CHARACTERS = 64
"""Longer words count as several, because a tokenizer may map any length to one unknown token."""

_WORD = re.compile(rf"\s*\S{{1,{_LONGEST_TOKEN_CHARACTERS}}}")
_CACHED_WORDS = 50_000
"""Size of the word cache of a tokenizer. It is kept between calls, as one window is too short to
fill it."""

_PIECES_OF_OVERLAP = 4
"""Pieces per overlap. More pieces come closer to the overlap's size; fewer cut the text less."""

_LEAST_PIECE_TOKENS = 16

Span = tuple[int, int]
Count = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of a document.

    Attributes:
        position: index within the document, from 0 without gaps.
        text: the text exactly as it is in the document.
        page: the page on which the chunk begins; None if the format has no pages.
        tokens: token count of the text, without special tokens.
    """

    position: int
    text: str
    page: int | None
    tokens: int


def embedder_tokenizer(directory: Path) -> Tokenizer:
    """Load the tokenizer of an embedding model from its directory."""
    config = tokenizer_config(directory)
    special = {name: text for name in SPECIAL_NAMES if (text := text_of(config.get(name)))}
    return load_tokenizer(directory, config, special)


def chunks(
    document: Document, tokenizer: Tokenizer, *, chunk_tokens: int, overlap_tokens: int
) -> list[TextChunk]:
    """Cut a document into chunks. No visible text is lost, and a chunk may span pages.

    Args:
        document: its sections are joined by a blank line.
        tokenizer: the embedder's, from `embedder_tokenizer`.
        chunk_tokens: maximum tokens of a chunk.
        overlap_tokens: maximum tokens repeated from the chunk before; at most half a chunk.

    Returns:
        The chunks in reading order.
    """
    text = _BETWEEN_SECTIONS.join(section.text for section in document.sections)
    spans = _spans(text, tokenizer, limit=chunk_tokens, overlap=overlap_tokens)
    lengths = (len(section.text) + len(_BETWEEN_SECTIONS) for section in document.sections)
    starts = list(accumulate(lengths, initial=0))[:-1]
    texts = [text[start:end] for start, end in spans]
    found = zip(spans, texts, _counts(texts, tokenizer), strict=True)
    return [
        TextChunk(position, piece, document.sections[bisect_right(starts, start) - 1].page, tokens)
        for position, ((start, _), piece, tokens) in enumerate(found)
    ]


def windows(text: str, tokenizer: Tokenizer, *, window_tokens: int) -> list[str]:
    """Cut a chunk's text into windows that fit the embedder. No visible text is lost.

    Args:
        text: text of a chunk.
        tokenizer: the embedder's.
        window_tokens: the embedder's context length, special tokens included.

    Returns:
        The windows in reading order; the text itself if it fits.
    """
    limit = window_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
    if len(text) <= limit * _LONGEST_TOKEN_CHARACTERS and _counts([text], tokenizer)[0] <= limit:
        return [text]
    return [text[start:end] for start, end in _spans(text, tokenizer, limit=limit, overlap=0)]


def _spans(text: str, tokenizer: Tokenizer, *, limit: int, overlap: int) -> list[Span]:
    """Return the start and end of each chunk."""
    count = _word_counter(tokenizer)
    if overlap:
        spans = _overlapping(text, count, limit=limit, overlap=overlap)
    else:
        spans = _pieces(text, count, limit)
    exact = _counts([text[start:end] for start, end in spans], tokenizer)
    fitting: list[Span] = []
    for (start, end), tokens in zip(spans, exact, strict=True):
        if tokens <= limit:
            fitting.append((start, end))
        else:
            again = _pieces(text[start:end], lambda one: _counts([one], tokenizer)[0], limit)
            fitting += [(start + first, start + last) for first, last in again]
    return fitting


def _overlapping(text: str, count: Count, *, limit: int, overlap: int) -> list[Span]:
    """Build chunks from small pieces; the last pieces of a chunk begin the next one."""
    most = min(overlap, limit - overlap)
    pieces = _pieces(text, count, max(most // _PIECES_OF_OVERLAP, min(most, _LEAST_PIECE_TOKENS)))
    sizes = [count(text[start:end]) for start, end in pieces]
    spans: list[Span] = []
    first = last = 0
    while last < len(pieces):
        last = first + _fitting(sizes[first : first + limit], limit)
        spans.append((pieces[first][0], pieces[last - 1][1]))
        # The overlap leaves room for at least one more piece, so that every chunk makes progress.
        first = last - _fitting(sizes[first + 1 : last][::-1], overlap)
    return spans


def _fitting(sizes: Sequence[int], limit: int) -> int:
    """Return how many of the first sizes sum to at most the limit."""
    return bisect_right(list(accumulate(sizes)), limit)


def _pieces(text: str, tokens: Count, limit: int) -> list[Span]:
    """Cut a text into pieces without overlap."""

    def count(piece: str) -> int:
        if len(piece) > limit * _LONGEST_TOKEN_CHARACTERS:
            return limit + 1
        # One character cannot be cut, and semchunk would try for ever.
        return tokens(piece) if len(piece) > 1 else min(tokens(piece), limit)

    # semchunk's own cache is global and never shrinks.
    found = chunk(text, limit, count, memoize=False, offsets=True)
    return cast("tuple[list[str], list[Span]]", found)[1]


@lru_cache(maxsize=2)
def _word_counter(tokenizer: Tokenizer) -> Count:
    """Count tokens word by word with a cache; nearly exact if the tokenizer splits by words."""

    @lru_cache(_CACHED_WORDS)
    def tokens(word: str) -> int:
        return max(1, _counts([word], tokenizer)[0])

    return lambda text: sum(map(tokens, _WORD.findall(text)))


def _counts(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    # `encode` would hold the GIL and compute offsets.
    return [len(one) for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
