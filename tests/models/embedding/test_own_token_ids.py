"""Token ids of the model's own tokenizer are distinguished from those of another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from models.embedding.own_token_ids import SAMPLE, OwnTokenIds

ALONE = "byte pairs alone"
CORPUS = [
    "The cat sat on the mat, and it's 2 km to the station where we met.",
    "Where is the station? Stock markets fell; the bank raised its rates again.",
    "def square(x):\n    return x * x  # no more than that",
    "Zürich, naïve, 東京, Москва",
] * 20
TEXTS = [*CORPUS[:4], "", "a", "  spaced   out \t", "unseen: ŽŽŽ 🙂 x\u200by", SAMPLE]


def word_piece() -> Any:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def unigram() -> Any:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>"
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def byte_pairs(*, end: bool) -> Any:
    """The special tokens of decoder models: none at the beginning, and one or none at the end."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(CORPUS, trainer)
    if end:
        made.post_processor = processors.TemplateProcessing(
            single="$A <end>", special_tokens=[("<end>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made)


MADE = {
    "word pieces": word_piece(),
    "unigrams": unigram(),
    "byte pairs": byte_pairs(end=True),
    ALONE: byte_pairs(end=False),
}
PAIRS = [
    pair
    for pair in itertools.permutations(MADE, 2)
    # The first two have the same ids; those of the few unigrams are single bytes to the last.
    if {*pair} != {"byte pairs", ALONE} and pair != (ALONE, "unigrams")
]


@pytest.fixture(params=list(MADE))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MADE[request.param]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_text_are_taken(tokenizer: Any, text: str) -> None:
    if ids := ids_of(tokenizer, text):
        assert OwnTokenIds(tokenizer).why_not(ids) is None


def test_ids_that_were_cut_between_the_special_tokens_are_taken(tokenizer: Any) -> None:
    ids, own = ids_of(tokenizer, CORPUS[0]), OwnTokenIds(tokenizer)
    framed = ids_of(tokenizer, "")
    end = [one for one in framed if one == ids[-1]]
    for length in range(2, len(ids) - 1):
        assert own.why_not(ids[:length] + end) is None


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_ids_of_another_tokenizer_are_refused(mine: str, theirs: str) -> None:
    reason = OwnTokenIds(MADE[mine]).why_not(ids_of(MADE[theirs], " ".join(CORPUS[:4])))
    assert reason is not None
    assert "check_embedding_ctx_length=False" in reason


def test_ids_that_the_tokenizer_would_not_give_are_refused() -> None:
    own, text = MADE[ALONE], CORPUS[0]
    bytes_alone = [own.convert_tokens_to_ids(one) for one in text.replace(" ", "Ġ")]
    reason = OwnTokenIds(own).why_not(bytes_alone)
    assert reason is not None
    assert "gives other token ids" in reason


def test_missing_special_tokens_are_named() -> None:
    reason = OwnTokenIds(MADE["word pieces"]).why_not([10, 11])
    assert reason is not None
    assert "begin with 2 and end with 3" in reason


@pytest.mark.parametrize("ids", [[2], [3], [2, 2]])
def test_half_a_frame_is_refused(ids: list[int]) -> None:
    assert OwnTokenIds(MADE["word pieces"]).why_not(ids) is not None


def test_no_text_is_told() -> None:
    own = MADE["word pieces"]
    reason = OwnTokenIds(own).why_not(ids_of(own, "mat station")[1:])
    assert reason is not None
    assert "mat" not in reason.replace("format", "")
    assert "station" not in reason
