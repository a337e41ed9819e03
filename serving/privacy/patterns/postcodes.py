"""Post boxes, and postcodes where something shows that they are some."""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns.pattern_spec import PatternSpec, starting, words

_END = "(?![A-Za-z0-9])"
_STATES = (
    "AL", "AK", "AS", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "GU", "HI", "ID", "IL",
    "IN", "IA", "KS", "KY", "LA", "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH",
    "NJ", "NM", "NY", "NC", "ND", "MP", "OH", "OK", "OR", "PA", "PR", "RI", "SC", "SD", "TN", "TX",
    "UT", "VT", "VI", "VA", "WA", "WV", "WI", "WY", "AA", "AE", "AP",
)  # fmt: skip
_STATE_NAMES = (
    "Alabama", "Alaska", "Arizona", "Arkansas", "California", "Colorado", "Connecticut", "Delaware",
    "Florida", "Georgia", "Hawaii", "Idaho", "Illinois", "Indiana", "Iowa", "Kansas", "Kentucky",
    "Louisiana", "Maine", "Maryland", "Massachusetts", "Michigan", "Minnesota", "Mississippi",
    "Missouri", "Montana", "Nebraska", "Nevada", "Hampshire", "Jersey", "Mexico", "York",
    "Carolina", "Dakota", "Ohio", "Oklahoma", "Oregon", "Pennsylvania", "Island", "Tennessee",
    "Texas", "Utah", "Vermont", "Virginia", "Washington", "Wisconsin", "Wyoming",
)  # fmt: skip
_ZIP = r",?[ ]{1,2}[0-9]{5}(?:-[0-9]{4})?(?![\w-])"
_POSTAL = words(
    "zip", "zip code", "zipcode", "postcode", "post code", "postal code", "postal", "plz",
    "postleitzahl", "code postal", "código postal", "codigo postal", "cap", "cep", "pin code",
    "pincode", "postnummer", "kod pocztowy",
)  # fmt: skip
_BOXES = (
    r"P\.? ?O\.? ?Box", "Post Office Box", "Private Bag", "Locked Bag", "GPO Box", "PSC", "Unit",
    "USNS", "USS", "Postfach", "Postbus", "Bo[iî]te postale", r"B\.?P\.?",
    "Apartado(?: de correos| postal)?", "Casella postale", "Caixa postal", r"Skr\.? pocztowa",
    "Box",
)  # fmt: skip
_BOX_MARKS = (
    "box", "postfach", "postbus", "postale", "bp", "b.p", "apartado", "caixa", "skr", "bag", "psc",
    "unit", "usns", "uss",
)  # fmt: skip


def _postcode(pattern: str, score: float) -> PatternSpec:
    return PatternSpec(entity="ADDRESS", pattern=re.compile(pattern), alone=score)


SPECS: Final = (
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(
            starting(*_BOXES, not_after=r"\w", any_case=True)
            + r" ?(?i:#|nr\.?|no\.?)? ?[0-9]{2,6}(?: [0-9]{2,4})*"
            r"(?i:,? (?:Box|APO|FPO|DPO) [A-Z0-9]{1,6})?(?!\w)"
        ),
        alone=0.7,
        anywhere=True,
        marks=_BOX_MARKS,
    ),
    # Of the United States: after the state; of nine digits.
    _postcode(starting(*_STATES, not_after="A-Za-z") + _ZIP, 0.8),
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(starting(*_STATE_NAMES, not_after="A-Za-z") + _ZIP),
        alone=0.8,
        anywhere=True,
    ),
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(r"[0-9](?<![\w.-].)[0-9]{4}-[0-9]{4}(?![\w-])"),
        alone=0.5,
        long=True,
    ),
    # The United Kingdom, Canada, the Netherlands.
    _postcode(
        r"[A-Z](?<![A-Za-z0-9].)(?:[A-Z]?[0-9][A-Z0-9]? [0-9][ABD-HJLNP-UW-Z]{2}|(?<=G)IR 0AA)"
        f"{_END}",
        0.75,
    ),
    _postcode(
        "[ABCEGHJ-NPRSTVXY](?<![A-Za-z0-9].)[0-9][ABCEGHJ-NPRSTV-Z][ -]?"
        f"[0-9][ABCEGHJ-NPRSTV-Z][0-9]{_END}",
        0.65,
    ),
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(
            r"[1-9](?<![\w.,$\u20ac-].)[0-9]{3} [A-RT-Z][A-Z] {1,2}[A-Z][\w'-]{2,29}"
        ),
        alone=0.65,
        anywhere=True,
    ),
    # 10115 Berlin, D-80331 München: behind a street, at the start of a line, after the country.
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(
            r"[0-9](?:(?<=[ ,\n][DFIAS]-.)|(?<=[,;\n] .)|(?<=\n.))[0-9]{3,4} "
            r"[A-Z\u00c0-\u00de][\w'\u2019.-]{1,29}"
        ),
        alone=0.45,
        anywhere=True,
    ),
    # Any, after words.
    PatternSpec(
        entity="ADDRESS",
        pattern=re.compile(
            r"(?<![A-Za-z0-9.,$])(?=[A-Z]{0,2}[0-9])[A-Z0-9]{2,5}(?:[ -][A-Z0-9]{3,4})?"
            f"{_END}"
        ),
        near=_POSTAL,
        named=0.6,
        reach=24,
    ),
)
