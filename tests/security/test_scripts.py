"""Text that is not read for names does not leave, in any place and any encoding."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.security.conftest import Border, said
from tests.security.foreign import CARRIERS, NAMES, in_base64
from tests.security.positions import DIGITS, ROWS, USER, Row

TEXT = "Please forward the contract to 李畅 before noon."
GERMAN = "Gestern traf ich Annegret im Büro, und wir sprachen lange."

WORDS = [row for row in ROWS if row.canaries != (DIGITS,)]
"""Places that accept words."""


def asking(text: str) -> dict[str, Any]:
    return {"model": "chat", "messages": [USER | {"content": text}]}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_name_that_nobody_reads_stays(border: Border, name: str) -> None:
    for carrier in CARRIERS.values():
        answer = await border.ask("chat", asking(carrier(name)))
        assert (answer.status_code, border.provider.connections) == (503, 0), carrier(name)


@pytest.mark.parametrize("name", ["李畅", "Иван Петров", "さくら", "김민준", "דוד לוי"])
async def test_name_in_base64_stays(border: Border, name: str) -> None:
    await border.ask("chat", asking(in_base64(name)))
    assert border.provider.connections == 0


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.name)
async def test_name_that_nobody_reads_stays_in_any_place(border: Border, row: Row) -> None:
    body = {"model": "chat", "messages": [USER]} if row.endpoint == "chat" else {"model": "chat"}
    await border.ask(row.endpoint, body | row.place(TEXT))
    assert "李" not in border.outside()
    assert r"\u674e" not in border.outside()
    assert row.outcome != "scrubbed" or border.provider.connections == 0


async def test_reason_is_told_without_text(border: Border) -> None:
    for text, what in ((TEXT, "the Han script"), (GERMAN, "German (de)")):
        answer = await border.ask("chat", asking(text))
        assert (await border.considered(answer))[-1] == {
            "route": "overflow:near",
            "reason": "unscrubbable",
            "detail": f"The request has text in {what}, which is not read for names.",
        }


@pytest.mark.parametrize("border", [{"allow_languages": ["zh", "de"]}], indirect=True)
@pytest.mark.parametrize("text", [TEXT, GERMAN])
async def test_language_that_the_operator_allows_leaves(border: Border, text: str) -> None:
    answer = await border.ask("chat", asking(text))
    assert (answer.status_code, text in said(answer)) == (200, True)


@pytest.mark.parametrize("border", [{"allow_languages": ["zh"]}], indirect=True)
@pytest.mark.parametrize("text", [GERMAN, "担当はさくらです。", "Ask Иван Петров."])
async def test_allowed_language_opens_no_other(border: Border, text: str) -> None:
    await border.ask("chat", asking(text))
    assert border.provider.connections == 0


@pytest.mark.parametrize(
    "text",
    [
        "Let α, β and γ be angles with Δx = 3 µm at 20 °C; R is 5 kΩ, σ² is π/2 and x ∈ ℝ.",
        "Café, naïve, Łódź and Nguyễn 👩‍👩‍👧 ❤️ “so” – €5 ₹7 ™ ½ ① ﬁne → ✓",
        f"The token is {base64.b64encode(b'just some bytes').decode()}, the rest is fine.",
        "for (const row of rows) { if (!row.ok) continue; total += row.price * row.count; }",
    ],
)
async def test_english_with_signs_leaves(border: Border, text: str) -> None:
    answer = await border.ask("chat", asking(text))
    assert (answer.status_code, text in said(answer)) == (200, True)
