"""Texts that are read for names, decided by script and language for each sentence."""

from __future__ import annotations

import pytest

from serving.domain.languages import LANGUAGES, READ, named
from serving.privacy.languages.unread_text import check_read
from serving.privacy.refusals import Unread


def kept_by(text: str, *allowed: str) -> str | None:
    """Return the script or language that keeps a text inside; None if it may leave."""
    try:
        check_read([text], frozenset(allowed))
    except Unread as unread:
        return unread.what
    return None


GERMAN = "Gestern traf ich Annegret Schnabelhuber im Büro."


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (GERMAN, "German (de)"),
        (GERMAN.upper(), "German (de)"),
        (
            f"Translate this into English: {GERMAN} Thank you very much for your help.",
            "German (de)",
        ),
        (f'He wrote "{GERMAN}" to me.', "German (de)"),
        (f"Summarise this.\n\n{GERMAN}\nBe brief, please.", "German (de)"),
        (f"It is good. {GERMAN}", "German (de)"),
        (
            f"{'the weather was fine and ' * 50}{'gestern traf ich sie lange im Büro ' * 8}",
            "German (de)",
        ),
        (r'{"note": "Gestern traf ich sie im B\u00fcro."}', "German (de)"),
        ("Le locataire peut donner congé trois mois avant la fin.", "French (fr)"),
        ("Tôi đã gặp Nguyễn Thị Minh Châu hôm qua.", "Vietnamese (vi)"),
        ("hoi, ik heb Jan de Vries gisteren gezien", "Dutch (nl)"),
        ("Please forward the contract to 李畅 before noon.", "the Han script"),
        ("Hello PERSON_7KQ2M9XD, meet Иван.", "the Cyrillic script"),
    ],
)
def test_text_that_nobody_reads_is_told(text: str, what: str) -> None:
    assert kept_by(text) == what


def test_sentence_in_parts_is_told() -> None:
    with pytest.raises(Unread):
        check_read(["Gestern traf", "ich Annegret", "im Büro."])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Please forward the contract to Zbigniew Kowalczyk before noon.",
        "The form was sent by Nguyễn Thị Minh Châu, Łukasz Żak and José Muñoz.",
        "PERSON_7KQ2M9XD und PERSON_8KQ2M9XD",
        "for i in range(10): print(x)\nimport os, sys\nreturn {k: v for k, v in rows}",
        "SELECT name, total FROM orders WHERE id = 3 AND status <> 'open'",
        '{"id": 3, "tags": ["a", "b"], "rows": [{"to": "x", "is_ok": true}]}',
        "git commit -am wip && npm run build -- --watch",
        "omg lol thx c u 2nite",
        "Lorem and GmbH, S.p.A. and Ltd.",
    ],
)
def test_english_and_code_may_leave(text: str) -> None:
    assert kept_by(text) is None


RUSSIAN = "Арендатор может отказаться за три месяца до конца квартала."
UKRAINIAN = "Орендар може відмовитися за три місяці до кінця кварталу."
CHINESE = "昨天武丹丹打来电话，她说合同已经发给王秀英了，请你马上确认一下。"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (GERMAN, "de"),
        (RUSSIAN, "ru"),
        (CHINESE, "zh"),
        ("担当は佐藤健一です。よろしくお願いいたします。", "ja"),
        ("Ask Иван about it.", "ru"),
        ("Ask 李畅 about it.", "ja"),
        ("Vi møttes i går på kontoret hennes.", "no"),
    ],
)
def test_language_that_is_allowed_may_leave(text: str, allowed: str) -> None:
    assert kept_by(text) is not None
    assert kept_by(text, allowed) is None


@pytest.mark.parametrize(
    ("text", "allowed", "what"),
    [
        (UKRAINIAN, "ru", "Ukrainian (uk)"),
        (CHINESE, "ja", "Chinese (zh)"),
        ("担当はさくらです。", "zh", "the Hiragana script"),
        (GERMAN, "nl", "German (de)"),
        (f"{RUSSIAN} {GERMAN}", "ru", "German (de)"),
    ],
)
def test_allowed_language_opens_no_other(text: str, allowed: str, what: str) -> None:
    assert kept_by(text, allowed) == what


def test_reason_has_no_text() -> None:
    with pytest.raises(Unread) as caught:
        check_read([GERMAN])
    assert str(caught.value) == "The request has text in German (de), which is not read for names."


def test_languages_are_named_by_their_codes() -> None:
    assert LANGUAGES.keys() >= READ
    assert named({"en", "de"}) == "English (en), German (de)"
