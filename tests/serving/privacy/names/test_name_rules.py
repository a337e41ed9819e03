"""Rules for names in addition to the models', and for addresses."""

from __future__ import annotations

import pytest

from serving.privacy.names.models import BOTH_VOTES, ONE_VOTE
from serving.privacy.spans import EntityType, Span, merged
from tests.serving.privacy.loaded import name_rules


def found_in(text: str, *names: tuple[str, EntityType, float]) -> list[str]:
    spans = [
        Span(text.index(name), text.index(name) + len(name), entity, score)
        for name, entity, score in names
    ]
    return [text[span.start : span.end] for span in merged(name_rules().find(text, spans))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Please ask Trpinc about it.", ["Trpinc"]),
        ("my name is anna kowalska and i am late", ["anna kowalska"]),
        ("My name is not on the list", []),
        ("Thanks, Dr. Wolf", ["Dr. Wolf"]),
        ("We saw Xhevdet van den Bergh there", ["Xhevdet van den Bergh"]),
        ("Is it signed by Xhevdet J. Wood, Jr.", ["Xhevdet J. Wood, Jr."]),
        ("She is from Belgium.", ["Belgium"]),
        ("Import NumPy and HttpClient; see `Foobaz` and Foobaz_x", []),
        ("We'll see. I'm here. Don't go!", []),
        ("THE ATM IS DOWN", []),
    ],
)
def test_names(text: str, expected: list[str]) -> None:
    assert found_in(text) == expected


def test_name_of_the_models_grows_to_the_whole_name() -> None:
    text = "I met Peer Villareal Long today"
    assert found_in(text, ("Villareal", "PERSON", ONE_VOTE)) == ["Peer Villareal Long"]


def test_english_word_that_begins_a_sentence_is_not_drawn_in() -> None:
    assert found_in("Hello Anna", ("Anna", "PERSON", ONE_VOTE)) == ["Anna"]


@pytest.mark.parametrize(
    ("name", "entity", "score", "kept"),
    [
        ("Guilty Pleasures", "ORGANISATION", ONE_VOTE, False),
        ("Guilty Pleasures", "ORGANISATION", BOTH_VOTES, True),
        ("Guilty Pleasures", "PERSON", ONE_VOTE, True),
        ("IBAN", "ORGANISATION", BOTH_VOTES, False),
        ("self._release", "PERSON", BOTH_VOTES, False),
        ("J.R.R. Tolkien", "PERSON", ONE_VOTE, True),
    ],
)
def test_models_are_believed(name: str, entity: EntityType, score: float, *, kept: bool) -> None:
    assert bool(found_in(f"it says {name} there", (name, entity, score))) is kept


@pytest.mark.parametrize(
    "address",
    [
        "0462 Ålfjordgata 150 Apt. 656",
        "12 rue de Rivoli, 75001 Paris",
        "16152 ul. Asnyka Adama 82 Apt. 988 Rzeszów",
        "180 C/ Eras 47 Suite 356 La Cabrera Madrid",
        "Luite tee 87",
        "71586 Bem rkp. 97.\n Suite 497\n Szerencs",
        "4516 50 Point Walter Road\n??? Apt. 876\n??? PALMYRA",
        "the corner of Rua Cidade de Maracajá 468 and Emma Terrace",
        "Joshua and Pierre Delannoyplaats 373",
        "πλατεία Καραισκάκη 26, ΠΟΛΕΜΙ",
    ],
)
def test_address_is_found_whole(address: str) -> None:
    text = f"Please send it to {address}"
    known: tuple[tuple[str, EntityType, float], ...] = ()
    if "Paris" in address:
        known = (("Paris", "PLACE", BOTH_VOTES),)
    wanted = {i for i, sign in enumerate(text) if sign.isalnum() and i >= text.index(address)}
    spans = name_rules().find(
        text, [Span(text.index(n), text.index(n) + len(n), e, s) for n, e, s in known]
    )
    assert wanted <= {i for span in spans for i in range(span.start, span.end)}


@pytest.mark.parametrize(
    "text",
    ["In May 2024 we had 12 Orders", "See Table 3 and Figure 12", "Chapter 7 has 30 Pages"],
)
def test_numbers_beside_english_words_are_no_address(text: str) -> None:
    assert found_in(text) == []


def test_address_does_not_take_the_next_question() -> None:
    text = "Is it at Luite tee 87? I am in a hurry"
    assert found_in(text) == ["Luite tee 87"]
