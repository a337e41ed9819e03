r"""Text behind codes, as a model reads it: `\u674e`, `&#26446;`, `%E6%9D%8E`, `=E6=9D=8E`, base64.

For looking only: places in what comes out are not those of what went in.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata

from serving.privacy.json_text import has_escapes, without_escapes

MAX_LAYERS = 3
"""How many nested encodings are decoded."""

_WIDE = re.compile(
    r"\\U000(?P<eight>[0-9A-Fa-f]{5})|\\[ux]\{(?P<braced>[0-9A-Fa-f]{1,6})\}"
    r"|%u(?P<percent>[0-9A-Fa-f]{4})"
)
_BYTES = re.compile(
    r"(?:%[89A-Fa-f][0-9A-Fa-f]){2,}|(?:(?:=\r?\n)?=[89A-F][0-9A-F]){2,}"
    r"|(?:\\x[89A-Fa-f][0-9A-Fa-f]){2,}|(?:\\[23][0-7]{2}){2,}"
)
_BYTE = re.compile(r"\\(?P<octal>[0-7]{3})|(?P<hex>[0-9A-Fa-f]{2})")
_BASE64 = re.compile(r"(?<![\w+/-])(?=[0-9+/_-]*[A-Za-z])[A-Za-z0-9+/_-]{8,}")
_URL_SAFE = str.maketrans("-_", "+/")


def revealed(text: str) -> str:
    """A text with what its codes stand for in their places; of base64, only foreign words."""
    for _ in range(MAX_LAYERS):
        plain = _once(text)
        if plain == text:
            break
        text = plain
    return text


def _once(text: str) -> str:
    if "\\" in text or "%" in text or "=" in text:
        text = _BYTES.sub(_utf8, _WIDE.sub(_character, text.replace("%25", "%")))
    if has_escapes(text):
        text = without_escapes(text)
    if "&" in text:
        text = html.unescape(text)
    return _BASE64.sub(_from_base64, text)


def _character(code: re.Match[str]) -> str:
    number = int(code["eight"] or code["braced"] or code["percent"], 16)
    return code[0] if number > 0x10FFFF else chr(number)


def _utf8(run: re.Match[str]) -> str:
    found = _BYTE.finditer(run[0])
    data = bytes(int(one["octal"], 8) if one["octal"] else int(one["hex"], 16) for one in found)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return run[0]


def _from_base64(token: re.Match[str]) -> str:
    plain = token[0].translate(_URL_SAFE)
    try:
        told = base64.b64decode(plain + "=" * (-len(plain) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return token[0]
    return told if all(map(_is_of_foreign_words, told)) else token[0]


def _is_of_foreign_words(char: str) -> bool:
    return char in " .,'-" if char.isascii() else unicodedata.category(char)[0] in "LM"
