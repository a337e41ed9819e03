from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.catalog import ModelSpec
from models.embedding.reranker import BATCH, CrossEncoderReranker

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "wing",
    "lift",
    "drag",
    "flow",
    "heat",
    "of",
    "a",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a cross-encoder with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(1)
    made = tmp_path_factory.mktemp("cross-encoder")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(made)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=64).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def reranker(directory: Path) -> CrossEncoderReranker:
    spec = ModelSpec(
        id="cross",
        task="rerank",
        engine="sentence-transformers",
        source=str(directory),
        dtype="float32",
        context_tokens=32,
    )
    return CrossEncoderReranker(spec, directory)


def test_reranker_scores_texts_from_0_to_1_in_their_order(reranker: CrossEncoderReranker) -> None:
    texts = [f"{a} of a {b}" for a in WORDS[5:10] for b in WORDS[5:10]]
    assert len(texts) > BATCH["cpu"]
    scores = asyncio.run(reranker.rerank("lift of a wing", texts))
    one_by_one = [asyncio.run(reranker.rerank("lift of a wing", [text]))[0] for text in texts]
    assert scores == pytest.approx(one_by_one, abs=1e-5)
    assert all(0 < score < 1 for score in scores)
    assert len({round(score, 4) for score in scores}) > len(texts) // 2


def test_reranker_reads_the_question_with_the_text(reranker: CrossEncoderReranker) -> None:
    [first] = asyncio.run(reranker.rerank("lift", ["drag"]))
    [second] = asyncio.run(reranker.rerank("heat flow", ["drag"]))
    assert first != second


def test_reranker_does_not_read_the_end_of_a_text_that_is_too_long(
    reranker: CrossEncoderReranker,
) -> None:
    long = "flow " * 40
    ends = asyncio.run(reranker.rerank("lift", [long + "heat", long + "drag"]))
    assert ends[0] == pytest.approx(ends[1])


def test_reranker_of_no_texts_has_no_scores(reranker: CrossEncoderReranker) -> None:
    assert asyncio.run(reranker.rerank("lift", [])) == []
