"""Passwords, keys and tokens that only the words before them give away."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from serving.privacy.patterns.normalised import View
from serving.privacy.patterns.pattern_spec import Finder
from serving.privacy.spans import Span

MIN_BITS_PER_CHAR: Final = 3.0
"""Shannon's entropy of a value that may be random; English words joined together have less."""

_MARKS = (
    "pass", "pwd", "pw", "secret", "token", "key", "credential", "kennwort", "contrase", "senha",
    "mot de", "wachtwoord", "hasło", "pin", "jwt", "auth", "bearer", "cookie", "session",
)  # fmt: skip
_PASSWORDS = (
    "pass(?:word|wd|phrase|code|wort)?|pwd|pw|kennwort|contrase[ñn]a|mot de passe|senha|wachtwoord"
    "|hasło|pin|(?:client|shared|app|api)?[ _-]?secret"
)
_KEYS = (
    "(?:api|access|account|auth|private|signing|encryption|shared|subscription|master|service)?"
    "[ _-]?(?:key|token|credential)|secret[ _-](?:access[ _-])?key|jwt|bearer|authorization"
    "|cookie|session[ _-]?id"
)
_BEGINNING = "(?=[ _-]?[abcehjkmpstw][a-z])"  # Of all of them; spares most places a closer look.
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z]){_BEGINNING}(?:(?P<password>{_PASSWORDS})|{_KEYS})s?"
    r"(?:[ _-](?:id|value|is|for [\w.@-]{1,40}|number|code))?[\"'`]?(?:\*\*)?"
    r"(?P<sign>\s{0,3}(?::=|=>|->|[:=]|>(?![\"'`]))(?:\*\*)?\s{0,3}"
    r"|\s(?:is|was|ist|es|est)(?: now)?:?\s|\s(?=[\"'`]))"
    r"(?:(?P<quote>[\"'`])(?P<quoted>[^\"'`\n]{3,512}+)"
    r"|(?P<bare>[^\s\"'`,;<>(){}\[\]]{4,512}+)(?P<call>\(?))",
    re.IGNORECASE,
)
_FLAG = re.compile(
    rf"--(?:[a-z]{{1,20}}-){{0,2}}(?:{_PASSWORDS}|{_KEYS}) (?P<value>(?![\"'`-])\S{{4,512}}+)",
    re.IGNORECASE,
)
_NEAR_WORD = re.compile(
    r"(?<![A-Za-z])(?=[kstcp])(?:key|token|secret|credential|signature|password)s?(?![A-Za-z])"
    r"[^\n]{0,24}?(?<![\w+/=.-])(?P<value>[A-Za-z0-9+/_=-]{20,512}+)(?![\w+/=-])",
    re.IGNORECASE,
)
_TRAILING = ".,;:)"
_NO_VALUE = frozenset({
    "required", "optional", "string", "text", "none", "null", "true", "false", "undefined",
    "hidden", "invalid", "wrong", "incorrect", "missing", "empty", "expired", "correct", "valid",
    "changeme", "reset", "here", "there", "sent", "stored", "hashed", "encrypted", "needed",
    "protected", "default", "unknown", "redacted", "masked", "must", "should", "field", "input",
    "type", "bytes", "password", "secret", "token", "value", "example", "only", "used", "given",
    "never", "always", "also", "very", "your", "their", "this", "that", "await", "self", "lambda",
})  # fmt: skip
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Names of variables, and what is filled in later.
_CODE = re.compile(
    r"[a-z_]+(?:\.[a-z_]+)+|[a-z]+(?:_[a-z]+)+|[A-Z]+(?:_[A-Z]+)+|\$[A-Za-z_]+|\$?\{.*|%[(sd].*"
    r"|os\.environ.*|process\.env.*|<.*"
)
# Of types and algorithms.
_NAME = re.compile(r"(?:[A-Z][a-z]+[0-9]*){2,8}|[A-Z]{1,9}(?:[_-][A-Z]{1,9}[0-9]{0,4})+|[A-Z]+\W?")


def assigned(view: View) -> Iterator[Span]:
    """Find values assigned to words such as `password`, `api_key` or `token`, in code and prose."""
    if not any(map(view.lowered.__contains__, _MARKS)):
        return
    for match in _ASSIGNED.finditer(view.text):
        kind = "quoted" if match["quoted"] else "bare"
        value = match[kind].rstrip(_TRAILING) if kind == "bare" else match[kind]
        if _is_secret(match, value):
            start = match.start(kind)
            yield Span(start, start + len(value), "SECRET", 0.9)
    for match in _FLAG.finditer(view.text):
        if _may_be_secret(match["value"]) and not _NAME.fullmatch(match["value"]):
            yield Span(*match.span("value"), "SECRET", 0.8)
    for match in _NEAR_WORD.finditer(view.text):
        if _is_random(match["value"]):
            yield Span(*match.span("value"), "SECRET", 0.7)


def _is_secret(match: re.Match[str], value: str) -> bool:
    if match["call"] or not _may_be_secret(value):
        return False
    if match["password"]:
        return bool(match["quoted"]) or not value.isalpha() or "=" in match["sign"]
    by_sign = any(sign in match["sign"] for sign in ":=>")
    long_enough = len(value) >= (8 if by_sign else 12)
    return long_enough and _is_mixed(value) and not _NAME.fullmatch(value)


def _may_be_secret(value: str) -> bool:
    return len(value) >= 4 and value.lower() not in _NO_VALUE and not _CODE.fullmatch(value)


def _is_mixed(value: str) -> bool:
    """Whether it mixes letters and digits, or many letters in both cases."""
    if any(map(str.isdigit, value)):
        return any(map(str.isalpha, value))
    return len(value) >= 16 and value.isalnum() and not (value.islower() or value.isupper())


def _is_random(value: str) -> bool:
    if _UUID.fullmatch(value) or _HASH.fullmatch(value):
        return False
    mixed = sum(map(str.isdigit, value)) >= 3 and any(map(str.isalpha, value))
    return mixed and _bits_per_char(value) >= MIN_BITS_PER_CHAR


def _bits_per_char(text: str) -> float:
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


FINDERS: Final[tuple[Finder, ...]] = (assigned,)
