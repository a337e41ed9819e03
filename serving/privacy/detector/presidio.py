"""Presidio's recognisers: identifiers of many countries, by pattern, checksum and words nearby.

They are asked one by one, without Presidio's engine: that would load a spaCy model of its own,
downloading it where it is missing. Nothing here opens a connection or writes a file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.privacy.names.without_torch import without_torch
from serving.privacy.spans import EntityType, Span

if TYPE_CHECKING:
    from presidio_analyzer import RecognizerResult

KINDS: Mapping[str, EntityType] = {
    "CreditCardRecognizer": "CARD",
    "IbanRecognizer": "IBAN",
    "CryptoRecognizer": "ACCOUNT",
    "AbaRoutingRecognizer": "ACCOUNT",
    "UsBankRecognizer": "ACCOUNT",
    "IpRecognizer": "IP",
    "MacAddressRecognizer": "MAC",
    "UsSsnRecognizer": "NATIONAL_ID",
    "UsPassportRecognizer": "NATIONAL_ID",
    "UsLicenseRecognizer": "NATIONAL_ID",
    "UsMbiRecognizer": "NATIONAL_ID",
    "UsItinRecognizer": "TAX_ID",
    "NhsRecognizer": "NATIONAL_ID",
    "UkNinoRecognizer": "NATIONAL_ID",
    "UkPassportRecognizer": "NATIONAL_ID",
    "UkDrivingLicenceRecognizer": "NATIONAL_ID",
    "CaSinRecognizer": "NATIONAL_ID",
    "AuTfnRecognizer": "TAX_ID",
    "AuMedicareRecognizer": "NATIONAL_ID",
    "DeTaxIdRecognizer": "TAX_ID",
    "DeVatIdRecognizer": "TAX_ID",
    "DeIdCardRecognizer": "NATIONAL_ID",
    "DePassportRecognizer": "NATIONAL_ID",
    "DeSocialSecurityRecognizer": "NATIONAL_ID",
    "DeHealthInsuranceRecognizer": "NATIONAL_ID",
    "EsNifRecognizer": "TAX_ID",
    "EsNieRecognizer": "NATIONAL_ID",
    "ItFiscalCodeRecognizer": "TAX_ID",
    "ItVatCodeRecognizer": "TAX_ID",
    "ItIdentityCardRecognizer": "NATIONAL_ID",
    "ItPassportRecognizer": "NATIONAL_ID",
    "ItDriverLicenseRecognizer": "NATIONAL_ID",
    "PlPeselRecognizer": "NATIONAL_ID",
    "FiPersonalIdentityCodeRecognizer": "NATIONAL_ID",
    "SePersonnummerRecognizer": "NATIONAL_ID",
    "InAadhaarRecognizer": "NATIONAL_ID",
    "InPanRecognizer": "TAX_ID",
    "InVoterRecognizer": "NATIONAL_ID",
    "SgFinRecognizer": "NATIONAL_ID",
    "KrRrnRecognizer": "NATIONAL_ID",
    "ThTninRecognizer": "NATIONAL_ID",
    "TrNationalIdRecognizer": "NATIONAL_ID",
    "ZaIdNumberRecognizer": "NATIONAL_ID",
    "NgNinRecognizer": "NATIONAL_ID",
}
"""Recognisers that are used, by class, and the type that each finds. Models find names and places.
"""

PHONE_REGIONS = ("US", "GB", "DE")
"""Regions whose national numbers are known; international numbers are known everywhere. A region
costs a millisecond per thousand characters."""

SURE = 0.5
"""Score from which a result counts by itself: a checksum held, or the form is unmistakable."""

WORDS_WITHIN = 64
"""Characters before a weaker result in which one of its recogniser's words makes it count."""

_SLOW = "(?=.*"
"""Marks a pattern that scans the rest of the text from each position, which is quadratic."""

_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class _Asked:
    recogniser: Any
    kind: EntityType
    words: re.Pattern[str]


class Recognisers:
    """Presidio's recognisers for identifiers. Loading takes seconds, once."""

    def __init__(self) -> None:
        # It logs every recogniser at its start, and slow patterns with what they were matched on.
        logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)
        self._asked = list(_load())

    def find(self, text: str) -> list[Span]:
        """What they find in `text`; spans may overlap."""
        asked = (
            self._asked if _DIGIT.search(text) else [o for o in self._asked if o.kind == "EMAIL"]
        )
        return [span for one in asked for span in _counting(one, text)]


def _load() -> Iterable[_Asked]:
    with without_torch():
        from presidio_analyzer import predefined_recognizers  # noqa: PLC0415  Takes seconds.
    recognisers: list[tuple[Any, EntityType]] = [
        (getattr(predefined_recognizers, name)(supported_language="en"), kind)
        for name, kind in KINDS.items()
    ]
    phones = predefined_recognizers.PhoneRecognizer(supported_regions=PHONE_REGIONS)
    recognisers.append((phones, "PHONE"))
    recognisers.append((_offline_email_recogniser(), "EMAIL"))
    for recogniser, kind in recognisers:
        if hasattr(recogniser, "patterns"):
            recogniser.patterns = [p for p in recogniser.patterns if _SLOW not in p.regex]
        yield _Asked(recogniser, kind, _any_of(recogniser.context))


def _offline_email_recogniser() -> Any:
    """Presidio's, with the public suffix list that comes inside tldextract and no cache on disk."""
    with without_torch():
        from presidio_analyzer.predefined_recognizers import EmailRecognizer  # noqa: PLC0415
        from tldextract import TLDExtract  # noqa: PLC0415

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(extract(pattern_text).fqdn)

    return OfflineEmailRecognizer()


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds one of the words; nothing, of none."""
    alternatives = "|".join(map(re.escape, words)) or "(?!)"
    return re.compile(rf"\b(?:{alternatives})", re.IGNORECASE)


def _counting(asked: _Asked, text: str) -> Iterable[Span]:
    recogniser = asked.recogniser
    results = recogniser.analyze(text, recogniser.supported_entities, None)
    for result in results or ():
        if _counts(asked, text, result):
            yield Span(result.start, result.end, asked.kind, max(SURE, min(result.score, 1.0)))


def _counts(asked: _Asked, text: str, result: RecognizerResult) -> bool:
    if result.score >= SURE or asked.kind == "PHONE":
        return True
    before = text[max(0, result.start - WORDS_WITHIN) : result.start]
    return asked.words.search(before) is not None
