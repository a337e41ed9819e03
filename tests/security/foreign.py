"""Names in scripts that are not read for names, and encodings of them."""

from __future__ import annotations

import base64
import json
import quopri
from collections.abc import Callable
from urllib.parse import quote

NAMES = {
    "Han": "李畅", "one Han letter": "李", "kana": "さくら", "half-width kana": "ｻｸﾗ",
    "Hangul": "김민준", "Devanagari": "प्रिया शर्मा", "Arabic": "محمد الخطيب", "Hebrew": "דוד לוי",
    "Cyrillic": "Иван Петров", "Greek": "Γιώργος Παπάς", "Thai": "ธมน เช้าวันดี",
    "Georgian": "გიორგი", "Armenian": "Արամ", "Tamil": "முருகன்", "Ethiopic": "አበበ",
    "Braille": "⠚⠕⠓⠝", "Cherokee": "ᏣᎳᎩ", "mathematical Greek": "𝚨𝛎𝛎𝛂",
    "a new script": "\U00010d50\U00010d51", "no script": "\ue000\ue001",
}  # fmt: skip
"""Scripts of the names."""

NOTHING, MARK, BACKSLASH = "\u200b", "\u0332", "\\"

CARRIERS: dict[str, Callable[[str], str]] = {
    "prose": lambda name: f"Please forward the contract to {name} before noon.",
    "a long text": lambda name: f"{'The weather was fine that day. ' * 100}{name} came by.",
    "letters with nothing between": lambda name: f"Please ask {NOTHING.join(name)} for it.",
    "marks": lambda name: f"Please ask {MARK.join(name)} for it.",
    "code": lambda name: f'customer = Customer(name="{name}")  # the best one\n',
    "a key": lambda name: json.dumps({name: 1}, ensure_ascii=False),
    "JSON": lambda name: json.dumps({"rows": [{"to": name}]}, ensure_ascii=False),
    "escaped JSON": lambda name: json.dumps({"rows": [{"to": name}]}),
    "JSON in JSON": lambda name: json.dumps({"body": json.dumps({"to": name})}),
    "JSON in prose": lambda name: f"The row is {json.dumps({'to': name})}. Whose is it?",
    "HTML": lambda name: f"<b>{''.join(f'&#{ord(char)};' for char in name)}</b> is here.",
    "HTML in hexadecimal": lambda name: "".join(f"&#x{ord(char):x};" for char in name),
    "a URL": lambda name: f"See https://example.org/people/{quote(name)}?q=1 for more.",
    "mail": lambda name: quopri.encodestring(f"Dear {name}, thank you.".encode()).decode(),
    "bytes": lambda name: f"The log says {name.encode()!r}.",
    "a path of git": lambda name: (
        '"' + "".join(f"{BACKSLASH}{one:o}" for one in name.encode()) + '.txt"'
    ),
    "braced code points": lambda name: "".join(f"{BACKSLASH}u{{{ord(char):x}}}" for char in name),
}
"""Ways to put a name into an English request."""


def in_base64(name: str) -> str:
    """Encode a name, which needs two letters or more: eight characters of base64 say nothing."""
    return f"The field is {base64.b64encode(name.encode()).decode()} in the record."
