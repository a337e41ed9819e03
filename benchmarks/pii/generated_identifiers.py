"""Generated identifiers and secrets in sentences, plain and disguised, for tests of detection.

Every value is drawn from a seed, with valid check digits and prefix. None belongs to anybody.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, get_args

Form = Literal["plain", "spaced", "zero_width", "full_width"]
FORMS: tuple[Form, ...] = get_args(Form)

_ALNUM = string.ascii_letters + string.digits
_UPPER = string.ascii_uppercase + string.digits
_HEX = "0123456789abcdef"
_BASE32 = string.ascii_uppercase + "234567"
_WORD = _ALNUM + "_-"
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}

# Prefix of a card brand, and the lengths of its numbers.
_BRANDS = (
    ("4", (13, 16, 19)), ("51", (16,)), ("55", (16,)), ("2221", (16,)), ("34", (15,)),
    ("37", (15,)), ("6011", (16,)), ("65", (16,)), ("3528", (16,)), ("3589", (16,)), ("36", (14,)),
    ("38", (14,)), ("305", (14,)), ("62", (16, 19)), ("5018", (12, 16)), ("6304", (13, 16)),
    ("2200", (16,)),
)  # fmt: skip
_GROUPS = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4), 19: (4, 4, 4, 4, 3)}

# Structures as in the registry of ISO 13616: n is digits, a is capital letters, c is both.
_IBANS = {
    "DE": "18n", "GB": "4a14n", "FR": "10n11c2n", "ES": "20n", "IT": "1a10n12c", "NL": "4a10n",
    "BE": "12n", "AT": "16n", "CH": "5n12c", "PL": "24n", "SE": "20n", "NO": "11n", "DK": "14n",
    "FI": "14n", "PT": "21n", "IE": "4a14n", "MT": "4a5n18c", "RO": "4a16c", "SA": "2n18c",
    "AE": "19n", "TR": "6n16c", "BR": "23n1a1c", "GR": "7n16c", "LU": "3n13c",
}  # fmt: skip
_ALPHABETS = {"n": string.digits, "a": string.ascii_uppercase, "c": _UPPER}

# Prefix of a key, and alphabet and number of the characters after it.
_KEYS = (
    ("sk-", _ALNUM, 48), ("sk-proj-", _WORD, 120), ("sk-svcacct-", _WORD, 80),
    ("sk-ant-api03-", _WORD, 93), ("sk-or-v1-", _HEX, 64), ("sk-rf-", _ALNUM, 0),
    ("AKIA", _BASE32, 16), ("ASIA", _BASE32, 16),
    ("ghp_", _ALNUM, 36), ("gho_", _ALNUM, 36), ("ghs_", _ALNUM, 36), ("github_pat_", _ALNUM, 82),
    ("glpat-", _WORD, 20), ("xoxb-", string.digits, 24), ("sk_live_", _ALNUM, 24),
    ("rk_live_", _ALNUM, 24), ("whsec_", _ALNUM, 32), ("AIza", _WORD, 35), ("SK", _HEX, 32),
    ("npm_", _ALNUM, 36), ("pypi-AgEIcHlwaS5vcmc", _WORD, 140), ("hf_", string.ascii_letters, 34),
    ("gsk_", _ALNUM, 52), ("xai-", _ALNUM, 80), ("dop_v1_", _HEX, 64), ("shpat_", _HEX, 32),
)  # fmt: skip

_SENTENCES = (
    "{}",
    "Please use {} for this one.",
    "I was told that it is {}, but I am not sure.",
    "We noted {}. Is that still right?",
    "He wrote: {}; she did not answer",
    "This (it was {}) came with the last letter.",
    'The field holds "{}" at the moment.',
    "First line of the note\n{}\nlast line of the note",
    "It may be a {} or something like it.",
    "- one entry: {}\n- another one: none",
)


@dataclass(frozen=True, slots=True)
class IdentifierSample:
    """A text that contains one value, at `text[start:end]`."""

    kind: str
    form: Form
    text: str
    start: int
    end: int

    def covered(self, spans: Iterable[tuple[int, int]]) -> bool:
        """Whether the spans contain every letter and digit of the value."""
        inside = {at for first, last in spans for at in range(first, last)}
        places = range(self.start, self.end)
        return all(at in inside for at in places if self.text[at].isalnum())


def samples(values: int, *, seed: int) -> Iterator[IdentifierSample]:
    """Yield `values` values in all forms, alternating between kinds.

    The same arguments give the same samples.
    """
    source = random.Random(seed)  # noqa: S311  Text, not a secret.
    kinds = list(_KINDS)
    for number in range(values):
        kind = kinds[number % len(kinds)]
        value, sentence = _KINDS[kind](source), source.choice(_SENTENCES)
        for form in FORMS:
            yield _sample(kind, form, _disguised(value, form, source), sentence)


def _sample(kind: str, form: Form, value: str, sentence: str) -> IdentifierSample:
    start = sentence.index("{}")
    return IdentifierSample(kind, form, sentence.replace("{}", value), start, start + len(value))


def _disguised(value: str, form: Form, source: random.Random) -> str:
    if form == "spaced":
        return " ".join(value)
    if form == "zero_width":
        return "".join(char + source.choice(_ZERO_WIDTH) for char in value[:-1]) + value[-1]
    return value.translate(_FULL_WIDTH) if form == "full_width" else value


def _some(source: random.Random, alphabet: str, length: int) -> str:
    return "".join(source.choices(alphabet, k=length))


def _card(source: random.Random) -> str:
    prefix, lengths = source.choice(_BRANDS)
    length = source.choice(lengths)
    number = prefix + _some(source, string.digits, length - len(prefix) - 1)
    number += next(digit for digit in string.digits if _luhn(number + digit) == 0)
    separator = source.choice(("", "", " ", "-"))
    return separator.join(_cut(number, _GROUPS.get(length, (length,))))


def _luhn(number: str) -> int:
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number)))
    return sum(value // 10 + value % 10 for value in doubled) % 10


def _cut(text: str, lengths: Iterable[int]) -> Iterator[str]:
    at = 0
    for length in lengths:
        yield text[at : at + length]
        at += length


def _iban(source: random.Random) -> str:
    country, structure = source.choice(sorted(_IBANS.items()))
    account = ""
    while structure:
        digits = structure[: len(structure) - len(structure.lstrip(string.digits))]
        account += _some(source, _ALPHABETS[structure[len(digits)]], int(digits))
        structure = structure[len(digits) + 1 :]
    rest = int("".join(str(int(char, 36)) for char in f"{account}{country}00")) % 97
    number = f"{country}{98 - rest:02}{account}"
    separator = source.choice(("", " "))
    return separator.join(number[at : at + 4] for at in range(0, len(number), 4))


def _ssn(source: random.Random) -> str:
    area = source.choice([area for area in range(1, 900) if area != 666])
    return f"{area:03}-{source.randint(1, 99):02}-{source.randint(1, 9999):04}"


def _email(source: random.Random) -> str:
    names = [_some(source, string.ascii_lowercase, source.randint(1, 9)) for _ in range(2)]
    local = source.choice(".-_+").join(names) + source.choice(("", "7", "1984"))
    domain = _some(source, string.ascii_lowercase, source.randint(2, 12))
    suffix = source.choice(("com", "org", "de", "co.uk", "example", "io", "museum", "edu.au"))
    return f"{local}@{domain}.{suffix}"


def _ipv4(source: random.Random) -> str:
    first = source.choice([octet for octet in range(1, 224) if octet != 127])
    return str(IPv4Address(first << 24 | source.getrandbits(24)))


def _ipv6(source: random.Random) -> str:
    address = IPv6Address(0x2001 << 112 | source.getrandbits(112))
    if source.random() < 0.5:
        address = IPv6Address(0x20010DB8 << 96 | source.getrandbits(40))
    return source.choice((address.compressed, address.exploded))


def _mac(source: random.Random) -> str:
    return source.choice(":-").join(f"{source.getrandbits(8):02x}" for _ in range(6))


def _api_key(source: random.Random) -> str:
    prefix, alphabet, length = source.choice(_KEYS)
    if prefix == "sk-rf-":
        return f"{prefix}{_some(source, _ALNUM, 12)}-{_some(source, _ALNUM, 43)}"
    return prefix + _some(source, alphabet, length - 1) + source.choice("0123456789")


def _jwt(source: random.Random) -> str:
    subject = _some(source, _ALNUM, source.randint(8, 40))
    parts = (
        b'{"alg":"HS256","typ":"JWT"}',
        f'{{"sub":"{subject}"}}'.encode(),
        source.randbytes(32),
    )
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _pem(source: random.Random) -> str:
    label = source.choice(("RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED ")) + "PRIVATE KEY"
    body = base64.b64encode(source.randbytes(source.randint(48, 200))).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"))


_KINDS: dict[str, Callable[[random.Random], str]] = {
    "card": _card,
    "iban": _iban,
    "ssn": _ssn,
    "email": _email,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "mac": _mac,
    "api_key": _api_key,
    "jwt": _jwt,
    "pem": _pem,
}
