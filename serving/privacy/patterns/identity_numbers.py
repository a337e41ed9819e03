"""Numbers that states give to people: social security, identity cards, passports, licences.

Sources: the registers of each country as python-stdnum and Presidio describe them.
"""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns import checksums
from serving.privacy.patterns.pattern_spec import PatternSpec, Words, words
from serving.privacy.spans import EntityType

_START, _END = "(?<![A-Za-z0-9].)", "(?![A-Za-z0-9])"
_HAS_DIGIT = r"(?=[A-Z]{0,9}[.\-/]?[0-9])"
_GROUP = r"(?:[ .\-/](?=[A-Z]{0,3}[0-9])[A-Z0-9]{1,9}+)"

_SSN = words(
    "ssn", "ssns", "social security", "social security number", "social", "soc sec", "itin",
    "individual taxpayer", "taxpayer id", "tin",
)  # fmt: skip
_NHS = words("nhs", "nhs number", "health service", "health number")
_SIN = words("sin", "social insurance", "social insurance number", "nas", "assurance sociale")
_AUSWEIS = words("ausweis", "personalausweis", "ausweisnummer", "ausweis-nr", "perso", "id card",
                 "identity card", "german id")  # fmt: skip
_INSEE = words("insee", "nir", "sécurité sociale", "securite sociale", "sécu", "numéro de sécurité")
_PESEL = words("pesel", "numer pesel")
_BSN = words("bsn", "burgerservicenummer", "sofinummer", "citizen service number")
_SWEDISH = words("personnummer", "samordningsnummer", "personal identity", "pnr")
_AADHAAR = words("aadhaar", "aadhar", "adhaar", "uid", "uidai", "आधार")
_RESIDENT = words("resident", "identity", "id number", "id card", "身份证", "national id", "rrn")
_PASSPORT = words(
    "passport", "passports", "passport number", "passport no", "reisepass", "passnummer", "pass-nr",
    "passeport", "pasaporte", "passaporto", "passaporte", "paspoort", "paszport", "pass nr",
)  # fmt: skip
_LICENCE = words(
    "driver license", "drivers license", "driver's license", "driver\u2019s license", "dl",
    "driver licence", "drivers licence", "driver's licence", "driving licence", "driving license",
    "licence number", "license number", "licence no", "license no", "dvla", "dmv", "führerschein",
    "führerscheinnummer", "fuehrerschein", "permis de conduire", "patente", "carnet de conducir",
    "permiso de conducir", "rijbewijs", "prawo jazdy", "körkort",
)  # fmt: skip
_IDENTITY = words(
    "national id", "national identity", "identity number", "identity no", "identification number",
    "id number", "id no", "id card", "identity card", "personal id", "personal number",
    "carte d'identité", "cni", "cédula", "cedula", "documento", "dni", "nie", "carta d'identità",
    "curp", "cpr", "hetu", "ahv", "avs", "numéro national", "rijksregisternummer", "fødselsnummer",
    "rg", "my number", "medicare", "medicare number", "mbi", "health card", "insurance number",
    "versichertennummer", "sozialversicherungsnummer", "rentenversicherungsnummer", "employee id",
    "member id", "patient id", "mrn", "medical record", "medical record number", "voter id", "nino",
    "national insurance", "carta d'identita", "carta di identità", "carta di identita",
    "carta identità", "carta identita", "voter", "voter card", "epic", "nric", "nin", "kimlik",
    "tckn", "thai id", "citizen id", "south african id", "sa id", "krankenversicherung",
    "krankenversichertennummer", "kvnr", "health insurance", "insurance id",
)  # fmt: skip


def _digits(pattern: str) -> re.Pattern[str]:
    """A pattern that begins with one digit: that is what the search looks for first."""
    return re.compile(f"[0-9]{_START}{pattern}{_END}")


def _letters(first: str, rest: str) -> re.Pattern[str]:
    """Build the pattern with one character of a class; case does not count."""
    return re.compile(f"[{first}{first.lower()}]{_START}(?i:{rest}){_END}")


def _document(near: Words, pattern: str, entity: EntityType = "NATIONAL_ID") -> PatternSpec:
    """A document whose number has hardly a shape: the words before it decide."""
    whole = re.compile(f"(?<![A-Za-z0-9]){_HAS_DIGIT}{pattern}{_END}")
    return PatternSpec(entity=entity, pattern=whole, near=near, named=0.75, reach=40)


SPECS: Final = (
    # United States: SSN and ITIN.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits(r"[0-9]{2}(?:-[0-9]{2}-| [0-9]{2} |[.][0-9]{2}[.])[0-9]{4}"),
        alone=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{2}[-. ]?[0-9]{2}[-. ]?[0-9]{4}"),
        near=_SSN,
        named=0.85,
    ),
    # United Kingdom: National Insurance, National Health Service.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters(
            "A-CEGHJ-PR-TW-Z",
            "[A-CEGHJ-NPR-TW-Z](?<!BG|GB|KN|NK|NT|TN|ZZ)(?:[ -]?[0-9]{2}){3}[ -]?[A-D]",
        ),
        alone=0.85,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{2}[ -]?[0-9]{3}[ -]?[0-9]{4}"),
        check=lambda number: checksums.nhs(number) and number[0] in "4679",
        checked=0.6,
        near=_NHS,
        named=0.9,
        long=True,
    ),
    # Canada.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{2}(?:[ -][0-9]{3}){2}"),
        check=checksums.luhn,
        checked=0.75,
        near=_SIN,
        named=0.85,
        long=True,
    ),
    PatternSpec(entity="NATIONAL_ID", pattern=_digits("[0-9]{8}"), near=_SIN, named=0.8),
    # Germany: identity card; pension insurance.
    _document(_AUSWEIS, "[CFGHJKLMNPRTVWXYZ0-9]{9}[0-9]?D?"),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9][ ]?[0-3][0-9][01][0-9]{3}[ ]?[A-Z][ ]?[0-9]{2}[ ]?[0-9]"),
        alone=0.7,
        long=True,
    ),
    # France.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=re.compile(
            f"[12378]{_START}(?:[ .]?[0-9]{{2}}){{2}}[ .]?[0-9][0-9AB](?:[ .]?[0-9]{{3}}){{2}}"
            f"[ .]?[0-9]{{2}}{_END}"
        ),
        check=checksums.nir,
        checked=0.9,
        near=_INSEE,
        named=0.85,
        long=True,
    ),
    # Spain: DNI and NIE.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters("XYZ0-9", "[ .-]?[0-9]{1,3}[.]?[0-9]{3}[.]?[0-9]{3}[ -]?[A-Z]"),
        check=checksums.dni,
        checked=0.85,
        near=_IDENTITY,
        named=0.8,
        long=True,
    ),
    # Poland, the Netherlands.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{10}"),
        check=checksums.pesel,
        checked=0.6,
        near=_PESEL,
        named=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("(?:[ .]?[0-9]){7,8}"),
        near=_BSN,
        named=0.85,
    ),
    # Sweden; Denmark, Finland, Norway.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{5}(?:[0-9]{2})?[-+][0-9]{4}"),
        check=checksums.personnummer,
        checked=0.85,
        near=_SWEDISH,
        named=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{9,11}"),
        check=checksums.personnummer,
        near=_SWEDISH,
        named=0.7,
        both=0.9,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{5}[-+A-FU-Y ][0-9]{3}[0-9A-Y]"),
        check=checksums.dated,
        checked=0.6,
        long=True,
    ),
    # India.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=re.compile(
            f"[2-9]{_START}[0-9]{{3}}(?:[ -][0-9]{{4}}){{2}}(?![ -]?[0-9])(?![A-Za-z])"
        ),
        alone=0.6,
        check=checksums.verhoeff,
        checked=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}"),
        near=_AADHAAR,
        named=0.9,
    ),
    # Belgium, Switzerland, China, Korea, Mexico.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits(r"[0-9]\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"),
        alone=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=re.compile(rf"7{_START}56\.?[0-9]{{4}}\.?[0-9]{{4}}\.?[0-9]{{2}}{_END}"),
        alone=0.75,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{5}(?:19|20)[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx]"),
        alone=0.75,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9][01][0-9][0-3][0-9]-[1-8][0-9]{6}"),
        alone=0.75,
        near=_RESIDENT,
        named=0.9,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters("A-Z", "[A-Z]{3}[0-9]{6}[HMX][A-Z]{5}[A-Z0-9][0-9]"),
        alone=0.9,
        long=True,
    ),
    # Germany's health insurance; Singapore, Thailand, Korea, Turkey, South Africa.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters("A-Z", "[0-9]{9}"),
        check=checksums.kvnr,
        checked=0.7,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters("STFGM", "[0-9]{7}[A-Z]"),
        alone=0.7,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=re.compile(f"[1-8]{_START}-[0-9]{{4}}-[0-9]{{5}}-[0-9]{{2}}-[0-9]{_END}"),
        alone=0.85,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{12}"),
        check=lambda number: checksums.rrn(number) or checksums.south_african_id(number),
        checked=0.6,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{10}"),
        check=checksums.kimlik,
        checked=0.7,
        long=True,
    ),
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_digits("[0-9]{12}"),
        check=checksums.thai_id,
        near=words("thai", "thailand", "บัตรประชาชน", "id", "identity", "citizen", "pin"),
        both=0.8,
    ),
    # Passports and licences; the United Kingdom's licence has a shape of its own.
    PatternSpec(
        entity="NATIONAL_ID",
        pattern=_letters(
            "A-Z", "[A-Z]{1,4}9{0,3}[0-9][0156][0-9][0-3][0-9]{2}[A-Z9]{2}[0-9][A-Z]{2}"
        ),
        alone=0.85,
        long=True,
    ),
    _document(_PASSPORT, "[A-Z0-9]{1,3}[ -]?[A-Z0-9]{5,9}"),
    _document(_LICENCE, f"(?:[A-Z0-9]{{5,20}}+{_GROUP}{{0,4}}+|[A-Z0-9]{{1,7}}{_GROUP}{{1,4}}+)"),
    _document(_IDENTITY, f"(?:[A-Z0-9]{{5,24}}+{_GROUP}{{0,4}}+|[A-Z0-9]{{1,8}}{_GROUP}{{1,4}}+)"),
)
