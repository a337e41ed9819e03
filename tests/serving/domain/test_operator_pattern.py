"""Operators' patterns take linear time, mean what they mean in Python, and are refused if not."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.domain.operator_pattern import OperatorPattern, UnusablePattern

HANG_S = 120.0

_HOSTILE = """
import threading
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.patterns.patterns import find

ticks, done = 0, threading.Event()

def tick():
    global ticks
    while not done.wait(0.001):
        ticks += 1

threading.Thread(target=tick, daemon=True).start()
for pattern, part in [(r"(a+)+$", "a"), (r"(x+x+)+y", "x"), (r"(\\w+\\s?)*z", "w")]:
    rules = OperatorRules.of({"mine": pattern.replace(")*z", ")+z")})
    found = [one for one in find(part * 5_000 + "!", rules) if one.entity == "CUSTOM"]
    print(pattern, len(found))
done.set()
"""


def found(pattern: str, text: str) -> list[str]:
    return [text[start:end] for start, end in sorted(set(OperatorPattern(pattern).find(text)))]


def test_text_that_is_made_for_it_takes_no_exponential_time() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _HOSTILE], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert [line.split()[-1] for line in ended.stdout.splitlines()] == ["0", "0", "0"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(\w)\1", "uses back-references, such as \\1, which RE2 does not know"),
        (r"(?P<a>x)(?P=a)", "uses back-references"),
        (r"KD-(?=\d)", "uses look-arounds"),
        (r"(?<!\w)KD", "uses look-arounds"),
        (r"(?>ab)c", "uses possessive quantifiers and atomic groups"),
        (r"a++b", "uses possessive quantifiers"),
        (r"(a)?(?(1)b|c)", "uses conditions"),
        (r"KD-\d{,6}", "uses {,n}, which RE2 does not know; write {0,n}"),
        (r"KD\Z", "cannot be matched in linear time by RE2"),
        (r"(?:[a-z]{100}){100}", "cannot be matched in linear time by RE2"),
        ("(", "is no regular expression"),
        (r"\pL+", "is no regular expression"),
        ("a*", "matches the empty text"),
    ],
)
def test_pattern_that_cannot_be_used_is_refused_with_its_reason(pattern: str, reason: str) -> None:
    with pytest.raises(UnusablePattern) as refused:
        OperatorPattern(pattern)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"KD-[0-9]{3}", "äöü KD-123 ß 🙂 KD-456", ["KD-123", "KD-456"]),
        (r"Grün 🙂+", "Straße: Grün 🙂🙂!", ["Grün 🙂🙂"]),
        (r"\bÄrztin-\d+\b", "die Ärztin-12, xÄrztinnen-13", ["Ärztin-12"]),
        (r"Kd-\w+", "Kd-Müller, Kd-Иван", ["Kd-M", "Kd-Müller", "Kd-Иван"]),
        (r"\bИван\b", "зовут Иван, Иванов", ["Иван"]),
        (r"(?i)\bSTRAßE \d+", "straße 7", ["straße 7"]),
        (r"KD-\d+$", "Ü KD-12\n", ["KD-12"]),
        (r"KD-\d+", "ä\ud800 KD-12", ["KD-12"]),
        (r"(K)(?:D)-(?P<number>\d)", "é KD-1", ["KD-1"]),
    ],
)
def test_pattern_finds_the_characters_that_it_means(
    pattern: str, text: str, expected: list[str]
) -> None:
    assert found(pattern, text) == expected


@given(
    st.sampled_from([
        r"KD-\w+", r"\bÄ\w*\b", r"\b[A-ZÄÖÜ]\w+-\d{2}\b", r"\w+@\w+", r"(?i)straße \d+", r"[^;]+;",
        r"\Wä", r"\bß+\b", r"🙂+é?", r"(?:KD|Ä)-(\d+)+",
    ]),
    st.text("aäÄéßKDstre-12 @.;🙂\n", max_size=40),
)  # fmt: skip
def test_whatever_python_would_match_is_found(pattern: str, text: str) -> None:
    text = text.rstrip("\n")
    told = {at for start, end in OperatorPattern(pattern).find(text) for at in range(start, end)}
    meant = {at for match in re.finditer(pattern, text) for at in range(*match.span())}
    assert meant <= told
