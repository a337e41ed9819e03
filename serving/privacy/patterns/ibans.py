"""International bank account numbers (ISO 13616): structure and length by country decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from serving.privacy.patterns import checksums
from serving.privacy.patterns.normalised import View
from serving.privacy.spans import Span

_WELL_FORMED: Final = 0.92
_CHECKED: Final = 1.0

# After country and check digits, as ISO 13616's registry has it: n digits, a letters, c both.
_STRUCTURES = {
    "AD": "8n12c", "AE": "19n", "AL": "8n16c", "AT": "16n", "AZ": "4a20c", "BA": "16n",
    "BE": "12n", "BG": "4a6n8c", "BH": "4a14c", "BI": "23n", "BR": "23n1a1c", "BY": "4c4n16c",
    "CH": "5n12c", "CR": "18n", "CY": "8n16c", "CZ": "20n", "DE": "18n", "DJ": "23n", "DK": "14n",
    "DO": "4c20n", "DZ": "22n", "EE": "16n", "EG": "25n", "ES": "20n", "FI": "14n", "FK": "2a12n",
    "FO": "14n", "FR": "10n11c2n", "GB": "4a14n", "GE": "2a16n", "GI": "4a15c", "GL": "14n",
    "GR": "7n16c", "GT": "24c", "HN": "4a20n", "HR": "17n", "HU": "24n", "IE": "4a14n",
    "IL": "19n", "IQ": "4a15n", "IR": "22n", "IS": "22n", "IT": "1a10n12c", "JO": "4a4n18c",
    "KW": "4a22c", "KZ": "3n13c", "LB": "4n20c", "LC": "4a24c", "LI": "5n12c", "LT": "16n",
    "LU": "3n13c", "LV": "4a13c", "LY": "21n", "MA": "24n", "MC": "10n11c2n", "MD": "20c",
    "ME": "18n", "MG": "23n", "MK": "3n10c2n", "MN": "16n", "MR": "23n", "MT": "4a5n18c",
    "MU": "4a19n3a", "NI": "4a20n", "NL": "4a10n", "NO": "11n", "OM": "3n16c", "PK": "4a16c",
    "PL": "24n", "PS": "4a21c", "PT": "21n", "QA": "4a21c", "RO": "4a16c", "RS": "18n",
    "RU": "14n15c", "SA": "2n18c", "SC": "4a20n3a", "SD": "14n", "SE": "20n", "SI": "15n",
    "SK": "20n", "SM": "1a10n12c", "SN": "2a22n", "SO": "19n", "ST": "21n", "SV": "4a20n",
    "TL": "19n", "TN": "20n", "TR": "5n17c", "UA": "6n19c", "VA": "18n", "VG": "4a16n",
    "XK": "16n", "YE": "4a4n18c",
}  # fmt: skip
_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[0-9A-Z]"}
_PART = re.compile(r"([0-9]+)([nac])")
_PATTERNS = {
    country: re.compile(
        "[A-Z]{2}[0-9]{2}"
        + "".join(f"{_CLASSES[kind]}{{{length}}}" for length, kind in _PART.findall(structure))
    )
    for country, structure in _STRUCTURES.items()
}
# Begins with its digits: letters are everywhere.
_HEAD = re.compile("[0-9]{2}(?<=[A-Za-z]{2}[0-9]{2})(?<![A-Za-z0-9]....)")
_REST = re.compile(r"(?:[ .\-]{0,2}[0-9A-Za-z]){11,34}+")


def ibans(view: View) -> Iterator[Span]:
    """Find account numbers, also in groups and in lower case. A valid check number scores 1."""
    for head in _HEAD.finditer(view.text):
        start = head.start() - 2
        pattern = _PATTERNS.get(view.text[start : start + 2].upper())
        rest = _REST.match(view.text, head.end()) if pattern else None
        if pattern and rest:
            yield from _at(view.text, start, rest.end(), pattern)


def _at(text: str, start: int, most: int, pattern: re.Pattern[str]) -> Iterator[Span]:
    places = [at for at in range(start, most) if text[at].isalnum()]
    found = pattern.match("".join(map(text.__getitem__, places)).upper())
    if found is None:
        return
    end = places[found.end() - 1] + 1
    if not text[end : end + 1].isalnum():
        score = _CHECKED if checksums.mod_97_10(found[0]) else _WELL_FORMED
        yield Span(start, end, "IBAN", score)
